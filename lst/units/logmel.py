"""Log-mel energies at 100 Hz from raw audio, in torch: what `lst.units.network` hears.

1. Hann windows of 25 ms, centred in each 10 ms; the audio is mirrored beyond its ends.
2. 80 mel bands, logarithm above a floor: what is far below speech is silence.
3. With `floor_db`, as if white noise so many dB below the speech (mean power of the 1.29 s before and after) were
   always there, without its fluctuations: what real noise of that strength would hide is not heard.
4. The level (mean over bands, and over the 1.29 s before and after) is subtracted: gain does not count, pauses do.
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

    def __init__(self, bands: int, floor_db: float | None = None) -> None:
        super().__init__()
        self.floor_db = floor_db
        from torchaudio.functional import melscale_fbanks

        filters = melscale_fbanks(FFT // 2 + 1, 20.0, SAMPLE_RATE / 2, bands, SAMPLE_RATE, norm=None, mel_scale="htk")
        # Made from constants, so not kept with the weights; real also where the network is built on the meta device.
        self.register_buffer("window", torch.hann_window(WINDOW, periodic=False), persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, samples: Tensor, band_gain: Tensor | None = None, band_places: Tensor | None = None) -> Tensor:
        """For augmentation, `band_gain`: (B, bands) factors on the power of each band; `band_places`: (B, bands) which
        band, fractions between two, is heard in the place of each: a longer or shorter vocal tract."""
        side = (WINDOW - HOP) // 2
        padded = functional.pad(samples[:, None], (side, side), mode="reflect")[:, 0]
        frames = padded.unfold(1, WINDOW, HOP) * self.window
        power = torch.view_as_real(torch.fft.rfft(frames, FFT)).square().sum(-1)
        mel = power @ self.filters
        if band_gain is not None:
            mel = mel * band_gain[:, None]
        return self.normalised(mel, band_places)

    def normalised(self, mel: Tensor, band_places: Tensor | None = None) -> Tensor:
        """(B, K, bands) mel power -> what the network hears, with its floor and without its level."""
        if self.floor_db is not None:
            # Of the mean power of a frequency bin, then by how many bins each band hears.
            power_of_bin = _around(mel.sum(dim=2)) / len(self.filters)
            mel = mel + power_of_bin * 10 ** (-self.floor_db / 10) * self.filters.sum(dim=0)
        log_mel = (mel + FLOOR).log()
        if band_places is not None:
            log_mel = _read_at(log_mel, band_places)
        return (log_mel - _around(log_mel.mean(dim=2))) / SCALE


def _around(values: Tensor) -> Tensor:
    """(B, T) -> (B, T, 1) the mean over `LEVEL_FRAMES` frames around each."""
    padding = LEVEL_FRAMES // 2
    mean = functional.avg_pool1d(values[:, None], LEVEL_FRAMES, stride=1, padding=padding, count_include_pad=False)
    return mean.transpose(1, 2)


def _read_at(log_mel: Tensor, places: Tensor) -> Tensor:
    """(B, T, bands) read at (B, bands) places, linearly between bands."""
    below = places.floor().clamp(0, log_mel.shape[2] - 2)
    index = below.long()[:, None].expand_as(log_mel)
    low, high = log_mel.gather(2, index), log_mel.gather(2, index + 1)
    return torch.lerp(low, high, (places - below)[:, None].to(log_mel.dtype))
