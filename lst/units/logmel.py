"""Log-mel energies at 100 Hz from raw audio, in torch: what `lst.units.network` hears.

1. Hann windows of 25 ms, centred in each 10 ms; the audio is mirrored beyond its ends.
2. 80 mel bands, logarithm above a floor: what is far below speech is silence.
3. The level (mean over bands, and over the 1.29 s before and after) is subtracted: gain does not count, pauses do.
Every frame depends on 2.6 s around it and on nothing else.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lst.constants import SAMPLE_RATE

WINDOW = 400
HOP = 160
FFT = 512
FLOOR = 1e-5
"""Of mel power; speech at usual level lies near 1, so this is about 50 dB below."""
LEVEL_FRAMES = 257
SCALE = 3.0


class LogMel(nn.Module):
    """(B, n) samples at 16 kHz, n a multiple of 160 -> (B, n / 160, bands)."""

    window: Tensor
    filters: Tensor

    def __init__(self, bands: int) -> None:
        super().__init__()
        from torchaudio.functional import melscale_fbanks

        filters = melscale_fbanks(FFT // 2 + 1, 20.0, SAMPLE_RATE / 2, bands, SAMPLE_RATE, norm=None, mel_scale="htk")
        # Made from constants, so not kept with the weights; real also where the network is built on the meta device.
        self.register_buffer("window", torch.hann_window(WINDOW, periodic=False), persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, samples: Tensor, band_gain: Tensor | None = None) -> Tensor:
        """`band_gain`: (B, bands) factors on the power of each band, for augmentation."""
        side = (WINDOW - HOP) // 2
        padded = functional.pad(samples[:, None], (side, side), mode="reflect")[:, 0]
        frames = padded.unfold(1, WINDOW, HOP) * self.window
        power = torch.view_as_real(torch.fft.rfft(frames, FFT)).square().sum(-1)
        mel = power @ self.filters
        if band_gain is not None:
            mel = mel * band_gain[:, None]
        log_mel = (mel + FLOOR).log()
        level = functional.avg_pool1d(
            log_mel.mean(dim=2)[:, None], LEVEL_FRAMES, stride=1, padding=LEVEL_FRAMES // 2, count_include_pad=False
        )
        return (log_mel - level.transpose(1, 2)) / SCALE
