"""Discriminators of waveforms: several networks, each of which tells real sound from made sound by one view of it.

    by period      (Kong et al. 2020, HiFi-GAN): the waveform folded into rows of p samples, for several p: what repeats
    by resolution  (Jang et al. 2021, UnivNet; complex as in EnCodec): its short-time spectra by several windows

Each gives a map of scores, above 0 for "real", and what its layers saw on the way: (B, channels, time, frequency or 1).
"""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from lst.config import StageConfig

SLOPE = 0.1
"""Of the leaky ReLU."""

LEVEL = 0.1
"""What an ordinary sample of speech is; networks that see numbers of about 1 learn from the first step on."""

POWER = 0.3
"""Spectra are compressed to this power of their magnitude: what is 40 dB weaker counts a quarter, not a hundredth."""


class DiscriminatorShape(StageConfig):
    """The discriminators; the defaults have 3.0 million parameters."""

    periods: tuple[int, ...] = Field((2, 3, 5, 7, 11), description="row lengths in samples")
    period_channels: tuple[int, ...] = Field((16, 64, 128, 256), description="of the layers, each three times coarser")
    windows: tuple[int, ...] = Field((256, 512, 1024), description="lengths of the spectra's windows in samples")
    window_channels: int = Field(32, ge=1, le=1024, description="of every layer on spectra")


class PeriodDiscriminator(nn.Module):
    """Of waveforms folded into rows of `period` samples."""

    def __init__(self, period: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.period = period
        widths = [1, *channels]
        self.layers = nn.ModuleList(
            _convolution(before, after, (5, 1), (3, 1)) for before, after in zip(widths, channels, strict=False)
        )
        self.last = _convolution(channels[-1], channels[-1], (5, 1))
        self.score = _convolution(channels[-1], 1, (3, 1))

    def forward(self, samples: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, n) -> a map of scores, and what every layer saw."""
        short = -samples.shape[1] % self.period
        seen = functional.pad(samples / LEVEL, (0, short)).reshape(len(samples), 1, -1, self.period)
        score, noticed = _through([*self.layers, self.last], self.score, seen)
        # Places in a period are as good as one another.
        return score, [layer.mean(3, keepdim=True) for layer in noticed]


class ResolutionDiscriminator(nn.Module):
    """Of short-time spectra by a Hann window of `window` samples."""

    hann: Tensor

    def __init__(self, window: int, channels: int) -> None:
        super().__init__()
        self.window = window
        self.register_buffer("hann", torch.hann_window(window), persistent=False)
        strides = (1, 2, 2, 2)
        self.layers = nn.ModuleList(
            _convolution(channels if index else 2, channels, (3, 9), (1, stride))
            for index, stride in enumerate(strides)
        )
        self.last = _convolution(channels, channels, (3, 3))
        self.score = _convolution(channels, 1, (3, 3))

    def forward(self, samples: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, n) -> a map of scores, and what every layer saw."""
        with torch.autocast(samples.device.type, enabled=False):
            windows = samples.float().unfold(1, self.window, self.window // 4) * self.hann
            spectrum = torch.fft.rfft(windows / LEVEL) / self.hann.square().sum().sqrt()
            seen = torch.view_as_real(spectrum)
            # The small number keeps the gradient of silence finite.
            seen = seen * (seen.square().sum(-1, keepdim=True) + 1e-6) ** ((POWER - 1) / 2)
        return _through([*self.layers, self.last], self.score, seen.permute(0, 3, 1, 2))


class Discriminators(nn.Module):
    """All of them."""

    def __init__(self, shape: DiscriminatorShape) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            [PeriodDiscriminator(period, shape.period_channels) for period in shape.periods]
            + [ResolutionDiscriminator(window, shape.window_channels) for window in shape.windows]
        )

    def forward(self, samples: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        """(B, n) -> of each, a map of scores (B, ...) and what its layers saw."""
        return [part(samples) for part in self.parts]


def _convolution(before: int, after: int, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1)) -> nn.Module:
    """With weights that keep the size of what comes in, as wide as its input at stride 1."""
    made = nn.Conv2d(before, after, kernel, stride, (kernel[0] // 2, kernel[1] // 2))
    nn.init.kaiming_normal_(made.weight, a=SLOPE)
    nn.init.zeros_(made.bias)  # type: ignore[arg-type]
    normed: nn.Module = weight_norm(made)
    return normed


def _through(layers: list[nn.Module], score: nn.Module, seen: Tensor) -> tuple[Tensor, list[Tensor]]:
    noticed = []
    for layer in layers:
        seen = functional.leaky_relu(layer(seen), SLOPE)
        noticed.append(seen)
    return score(seen), noticed
