"""The unit HiFi-GAN of speech resynthesis, textlesslib, fairseq and Spirit LM, in plain PyTorch.

    units -> embedding [+ pitch and style codes, speaker, style] -> conv -> (upsample -> residual blocks) x n -> wave

After Kong et al. (2020), "HiFi-GAN", and Polyak et al. (2021), "Speech Resynthesis from Discrete Disentangled
Self-Supervised Representations". Parameter names are those of the public checkpoints; weight normalisation, a device
of training, is folded into the weights when they are loaded.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEAK = 0.1
LAST_LEAK = 0.01
"""The slope before the last convolution is PyTorch's default in every public checkpoint, not the model's own."""


@dataclass(frozen=True)
class GeneratorConfig:
    """What determines the shape of a generator: the keys of `config.json` that matter here."""

    num_embeddings: int
    embedding_dim: int
    model_in_dim: int
    upsample_rates: tuple[int, ...]
    upsample_kernel_sizes: tuple[int, ...]
    upsample_initial_channel: int
    resblock_kernel_sizes: tuple[int, ...]
    resblock_dilation_sizes: tuple[tuple[int, ...], ...]
    resblock: str = "1"
    sampling_rate: int = 16_000
    num_speakers: int = 0
    speaker_dim: int = 0
    """Width of the speaker vectors where they come from another model (`embedder_params`); 0: a table."""
    num_styles: int = 0
    num_f0_tokens: int = 0
    f0_rate_ratio: int = 1
    """Units per pitch code (Spirit LM Expressive: 4)."""
    num_style_tokens: int = 0
    style_rate_ratio: int = 1
    """Units per style code (Spirit LM Expressive: 25)."""
    duration_hidden: int = 0
    """Width of the duration predictor; 0: none."""
    duration_kernel: int = 3

    @property
    def hop(self) -> int:
        """Samples per unit."""
        return math.prod(self.upsample_rates)

    @property
    def context_units(self) -> int:
        """Units on each side that a sample depends on: the receptive field of all convolutions, rounded up."""
        reach = 3.0
        rate = 1.0
        for stride, kernel in zip(self.upsample_rates, self.upsample_kernel_sizes, strict=True):
            reach += (kernel / stride) / rate
            rate *= stride
            widest = max(
                sum((size - 1) * (dilation + (1 if self.resblock == "1" else 0)) / 2 for dilation in dilations)
                for size, dilations in zip(self.resblock_kernel_sizes, self.resblock_dilation_sizes, strict=True)
            )
            reach += widest / rate
        return math.ceil(reach + 3 / rate) + 1


class ResidualBlock(nn.Module):
    """Dilated convolutions with a residual after each pair ("1") or each single one ("2"): (B, C, T) -> (B, C, T)."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...], kind: str) -> None:
        super().__init__()

        def convolution(dilation: int) -> nn.Conv1d:
            return nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=dilation * (kernel - 1) // 2)

        self.kind = kind
        if kind == "1":
            self.convs1 = nn.ModuleList(convolution(dilation) for dilation in dilations)
            self.convs2 = nn.ModuleList(convolution(1) for _ in dilations)
        else:
            self.convs = nn.ModuleList(convolution(dilation) for dilation in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, T)."""
        if self.kind == "1":
            for first, second in zip(self.convs1, self.convs2, strict=True):
                x = x + second(F.leaky_relu(first(F.leaky_relu(x, LEAK)), LEAK))
        else:
            for single in self.convs:
                x = x + single(F.leaky_relu(x, LEAK))
        return x


class DurationPredictor(nn.Module):
    """Log(1 + frames) per unit, for units whose repeats were removed: (B, T, C) -> (B, T)."""

    def __init__(self, width: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv1d(width, hidden, kernel, padding=(kernel - 1) // 2), nn.ReLU())
        self.ln1 = nn.LayerNorm(hidden)
        self.conv2 = nn.Sequential(nn.Conv1d(hidden, hidden, kernel, padding=1), nn.ReLU())
        self.ln2 = nn.LayerNorm(hidden)
        self.proj = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, T, C)."""
        x = self.ln1(self.conv1(x.transpose(1, 2)).transpose(1, 2))
        x = self.ln2(self.conv2(x.transpose(1, 2)).transpose(1, 2))
        out: Tensor = self.proj(x).squeeze(2)
        return out


@dataclass(frozen=True)
class Conditioning:
    """What goes in beside the units; None where the generator has no such input."""

    speaker: Tensor | None = None
    """(B,) int64 ids, or (B, speaker_dim) float vectors."""
    style: Tensor | None = None
    """(B,) int64."""
    f0_codes: Tensor | None = None
    """(B, T) int64, one per unit."""
    style_codes: Tensor | None = None
    """(B, T) int64, one per unit."""


class UnitGenerator(nn.Module):
    """Units to waveform; built from a config, filled by `load_state_dict` with folded weights."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.embedding_dim
        self.dict = nn.Embedding(config.num_embeddings, width)
        if config.num_f0_tokens:
            self.f0_dict = nn.Embedding(config.num_f0_tokens, width)
        if config.num_style_tokens:
            self.style_dict = nn.Embedding(config.num_style_tokens, width)
        if config.num_speakers:
            self.spkr: nn.Module = nn.Embedding(config.num_speakers, width)
        elif config.speaker_dim:
            self.spkr = nn.Linear(config.speaker_dim, width)
        if config.num_styles:
            self.style = nn.Embedding(config.num_styles, width)
        if config.duration_hidden:
            self.dur_predictor = DurationPredictor(width, config.duration_hidden, config.duration_kernel)
        channels = config.upsample_initial_channel
        self.conv_pre = nn.Conv1d(config.model_in_dim, channels, 7, padding=3)
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for stride, kernel in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
            self.ups.append(nn.ConvTranspose1d(channels, channels // 2, kernel, stride, padding=(kernel - stride) // 2))
            channels //= 2
            for size, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True):
                self.resblocks.append(ResidualBlock(channels, size, dilations, config.resblock))
        self.conv_post = nn.Conv1d(channels, 1, 7, padding=3)

    def forward(self, units: Tensor, conditioning: Conditioning | None = None) -> Tensor:
        """units: (B, T) int64 -> (B, samples), samples >= hop * T (odd kernels give a few more)."""
        given = conditioning or Conditioning()
        x = self.dict(units).transpose(1, 2)
        parts = [x]
        if self.config.num_f0_tokens:
            parts.append(self.f0_dict(_needed(given.f0_codes, "f0_codes")).transpose(1, 2))
        if self.config.num_style_tokens:
            parts.append(self.style_dict(_needed(given.style_codes, "style_codes")).transpose(1, 2))
        if self.config.num_speakers or self.config.speaker_dim:
            parts.append(self.spkr(_needed(given.speaker, "speaker"))[:, :, None].expand(-1, -1, x.shape[2]))
        if self.config.num_styles:
            parts.append(self.style(_needed(given.style, "style"))[:, :, None].expand(-1, -1, x.shape[2]))
        x = self.conv_pre(torch.cat(parts, 1))
        kinds = len(self.config.resblock_kernel_sizes)
        for index, upsample in enumerate(self.ups):
            x = upsample(F.leaky_relu(x, LEAK))
            blocks = [self.resblocks[index * kinds + kind] for kind in range(kinds)]
            total = blocks[0](x)
            for block in blocks[1:]:
                total = total + block(x)
            x = total / kinds
        wave: Tensor = torch.tanh(self.conv_post(F.leaky_relu(x, LAST_LEAK))).squeeze(1)
        return wave

    def durations(self, units: Tensor) -> Tensor:
        """Frames per unit for a sequence without repeats: (1, T) int64 -> (T,) int64, at least 1."""
        predicted = self.dur_predictor(self.dict(units))[0]
        return torch.round(torch.exp(predicted) - 1).long().clamp(min=1)


def _needed(value: Tensor | None, name: str) -> Tensor:
    if value is None:
        raise ValueError(f"This generator needs {name}.")
    return value


def fold_weight_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Plain weights from weight-normalised ones: w = g * v / |v|, the norm over all but the first dimension.

    Reads both spellings, `weight_g` / `weight_v` and `parametrizations.weight.original0` / `original1`.
    """
    folded: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.endswith((".weight_v", ".parametrizations.weight.original1")):
            old = name.endswith("weight_v")
            module = name.removesuffix(".weight_v" if old else ".parametrizations.weight.original1")
            gain = state[f"{module}.weight_g" if old else f"{module}.parametrizations.weight.original0"]
            norm = value.flatten(1).norm(dim=1).reshape(gain.shape)
            folded[f"{module}.weight"] = gain * value / norm
        elif not name.endswith((".weight_g", ".parametrizations.weight.original0")):
            folded[name] = value
    return folded
