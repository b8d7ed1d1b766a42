"""What a generator of waveforms and its discriminators minimise."""

import torch
from torch import Tensor, nn

from lst.vocoder.spectrum import LOG_FLOOR, Spectrum

Verdicts = list[tuple[Tensor, list[Tensor]]]
"""What `Discriminators` give: scores and features of each."""

RESOLUTIONS = ((64, 256, 20), (128, 512, 40), (160, 1024, 80))
"""Hop, window, mel bands of the spectra that are compared."""

PARTS = 8
"""Of what discriminators hear: by default a tenth of a second or less, ten periods of a deep voice."""

FLOOR = 1e-5
"""Added to mel power before the logarithm: 50 dB below a loud vowel's strongest band, above the noise of a codec."""


class SpectralDistance(nn.Module):
    """Mean absolute difference of log-mel spectra at several resolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.grids = [Spectrum(hop, window, window, bands) for hop, window, bands in RESOLUTIONS]
        for index, grid in enumerate(self.grids):
            self.register_buffer(f"window{index}", torch.from_numpy(grid.hann.copy()), persistent=False)
            self.register_buffer(f"mel{index}", torch.from_numpy(grid.mel_weights.T.copy()), persistent=False)

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        """(B, n), (B, n) -> a number, in nepers of power."""
        both = torch.cat([made, real]).float()
        distances = []
        for index, grid in enumerate(self.grids):
            window, mel = getattr(self, f"window{index}"), getattr(self, f"mel{index}")
            spectrum = torch.fft.rfft(both.unfold(1, grid.window, grid.hop) * window)
            power = (spectrum.real.square() + spectrum.imag.square()) @ mel
            first, second = (power + FLOOR * grid.window).log().chunk(2)
            distances.append((first - second).abs().mean())
        return torch.stack(distances).mean()


class LogMel(nn.Module):
    """`Spectrum.log_mel` in torch, with its gradient."""

    window: Tensor
    mel: Tensor

    def __init__(self, spectrum: Spectrum) -> None:
        super().__init__()
        self.spectrum = spectrum
        self.register_buffer("window", torch.from_numpy(spectrum.hann.copy()), persistent=False)
        self.register_buffer("mel", torch.from_numpy(spectrum.mel_weights.T.copy()), persistent=False)

    def forward(self, samples: Tensor) -> Tensor:
        """(B, hop * K) -> (B, K, n_mels)."""
        before = self.spectrum.before
        padded = nn.functional.pad(samples.float(), (before, before))
        spectrum = torch.fft.rfft(
            padded.unfold(1, self.spectrum.window, self.spectrum.hop) * self.window, self.spectrum.n_fft
        )
        power: Tensor = (spectrum.real.square() + spectrum.imag.square()) @ self.mel
        return (power + LOG_FLOOR).log()


def adversarial(made: Verdicts) -> Tensor:
    """What the generator loses by being told apart: minus the mean score."""
    return torch.stack([-scores.float().mean() for scores, _ in made]).mean()


def feature_distance(made: Verdicts, real: Verdicts) -> Tensor:
    """Mean absolute difference of what the layers saw on average in each tenth of a second, as a share of its size.

    The pulses of a voice need not lie where those of the recording do. Compared place by place (HiFi-GAN), features of
    two sounds alike in all but that differ by more than the sound from silence; silence would be the better voice.
    """
    shares = []
    for (_, ours), (_, theirs) in zip(made, real, strict=True):
        for mine, target in zip(ours, theirs, strict=True):
            kept = _averaged(target.detach())
            shares.append((_averaged(mine) - kept).abs().mean() / kept.abs().mean().clamp_min(1e-6))
    return torch.stack(shares).mean()


def _averaged(layer: Tensor) -> Tensor:
    """(B, channels, places in time, others) -> averages over parts of the time."""
    parts = min(PARTS, layer.shape[2])
    return nn.functional.adaptive_avg_pool2d(layer.float(), (parts, layer.shape[3]))


def discrimination(made: Verdicts, real: Verdicts) -> Tensor:
    """The hinge loss of the discriminators: real sound should score above 1, made sound below -1."""
    losses = [
        torch.relu(1 - truth.float()).mean() + torch.relu(1 + claim.float()).mean()
        for (claim, _), (truth, _) in zip(made, real, strict=True)
    ]
    return torch.stack(losses).mean()


def right_share(made: Verdicts, real: Verdicts) -> Tensor:
    """How much of the maps of scores has the right sign: 0.5 is guessing."""
    shares = [
        ((truth > 0).float().mean() + (claim < 0).float().mean()) / 2
        for (claim, _), (truth, _) in zip(made, real, strict=True)
    ]
    return torch.stack(shares).mean()
