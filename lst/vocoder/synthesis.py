"""A network that makes the waveform, frame by frame: the source-filter, and what a network corrects in it.

    pulses, noise -> their spectra, shaped by the minimum-phase response of the mel envelope       (the source-filter)
    hidden frames, pitch, these spectra -> causal ConvNeXt blocks -> gains and phases of both by mel band,
                                           and a complex spectrum that is added, bin by bin
    spectrum -> inverse transform, overlap-add

The last layer starts at zero: before training it is the source-filter. The correction that is added can be anything,
as in a vocoder that predicts spectra (Vocos, Siuzdak 2023); the pulses spare the network having to learn periodicity
(neural source-filter models, Wang et al. 2019). All of it is local: a sample is settled 25 ms of frames after its own.
"""

import math
from typing import cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from lst.config import StageConfig
from lst.model.linear import Linear
from lst.vocoder.convnext import Block, BlockStream
from lst.vocoder.excitation import Pulses
from lst.vocoder.source_filter import SourceFilterConfig
from lst.vocoder.spectrum import Spectrum

LOUDEST = 3.0
"""How far a correction may go: a factor of exp(3) in amplitude, up or down."""


class SynthesisShape(StageConfig):
    """The network that corrects the source-filter; the defaults have 2.3 million parameters."""

    dim: int = Field(256, ge=8, le=2048, description="width")
    hidden: int = Field(768, ge=8, le=8192, description="width between the dense layers of a block")
    blocks: int = Field(4, ge=1, le=32, description="blocks at 100 Hz, causal")
    kernel: int = Field(7, ge=2, le=31, description="places that a block sees")


class Synthesis(nn.Module):
    """Hidden frames, mel, pitch and two sources -> windows of the waveform."""

    window: Tensor
    mel_to_bins: Tensor
    noise_share: Tensor
    fold: Tensor

    def __init__(
        self, shape: SynthesisShape, given: int, spectrum: Spectrum, source_filter: SourceFilterConfig
    ) -> None:
        super().__init__()
        self.spectrum, self.noise_gain = spectrum, source_filter.noise_gain
        bins = spectrum.n_fft // 2 + 1
        self.energy = float((spectrum.hann.astype(np.float64) ** 2).sum())
        place = torch.linspace(0, 8000, bins)
        share = torch.sigmoid((place - source_filter.noise_above_hz) / source_filter.noise_slope_hz)
        fold = torch.full((spectrum.n_fft,), 2.0)
        fold[0] = fold[spectrum.n_fft // 2] = 1.0
        fold[spectrum.n_fft // 2 + 1 :] = 0.0
        tensors = {
            "window": torch.from_numpy(spectrum.hann.copy()),
            "mel_to_bins": torch.from_numpy(spectrum.mel_to_bins.T.copy()),
            "noise_share": share,
            "fold": fold,
        }
        for name, value in tensors.items():
            self.register_buffer(name, value, persistent=False)
        self.from_hidden = Linear(given, shape.dim)
        self.from_frame = Linear(spectrum.n_mels + 2, shape.dim)
        self.from_spectrum = Linear(2 * bins, shape.dim)
        self.blocks = nn.ModuleList(
            Block(shape.dim, shape.hidden, shape.kernel, 0, 1 / shape.blocks, 0.0) for _ in range(shape.blocks)
        )
        self.norm = nn.LayerNorm(shape.dim)
        self.bands = nn.Linear(shape.dim, 4 * spectrum.n_mels)
        self.added = nn.Linear(shape.dim, 2 * bins)
        for layer in (self.bands, self.added):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, hidden: Tensor, frames: Tensor, log_f0: Tensor, noise: Tensor) -> Tensor:
        """A whole piece: hidden (B, K, given), frames (B, K, n_mels + 2) as `windows` takes them, noise (B, hop * K).

        log_f0: (B, K), of the pulses. Returns (B, hop * K) samples.
        """
        before, hop, count = self.spectrum.before, self.spectrum.hop, hidden.shape[1]
        sources = [functional.pad(source, (before, before)) for source in (Pulses(hop).push(log_f0), noise)]
        features, pulses, hiss, envelope = self.prepare(hidden, frames, *sources)
        for block in self.blocks:
            features = cast(Block, block).padded(features)
        total, weight = self.overlap_add(self.windows(features, pulses, hiss, envelope))
        return (total / weight.clamp_min(1e-3))[:, before : before + hop * count]

    def prepare(
        self, hidden: Tensor, frames: Tensor, pulses: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the blocks see, (B, K, dim); the source-filter's two spectra and the envelope that shaped them.

        frames: (B, K, n_mels + 2): log-mel, then what describes the pitch: log F0 (normalised) and voicing (0 to 1).
        pulses, noise: (B, hop * (K - 1) + window).
        """
        with torch.autocast(hidden.device.type, enabled=False):
            mel = frames[..., : self.spectrum.n_mels].float()
            voicing = frames[..., -1:].float()
            gain = 0.5 * (mel @ self.mel_to_bins - math.log(self.energy))
            response = torch.polar(gain.exp(), self._phase(gain))
            share = 1 - ((voicing - 0.35) / 0.3).clamp(0, 1) * (1 - self.noise_share)
            voiced = self._spectra(pulses) * response * (1 - share).sqrt()
            hiss = self._spectra(noise) * response * (share.sqrt() * self.noise_gain)
            envelope = gain.exp() * math.sqrt(self.energy)
            flat = (voiced + hiss) / envelope
            seen = torch.cat([flat.real, flat.imag], -1)
            described = torch.cat([0.2 * (mel + 7), frames[..., self.spectrum.n_mels :].float()], -1)
        features = self.from_hidden(hidden) + self.from_frame(described) + self.from_spectrum(seen)
        return features, voiced, hiss, envelope

    def windows(self, features: Tensor, voiced: Tensor, hiss: Tensor, envelope: Tensor) -> Tensor:
        """After the blocks: (B, K, dim) and what `prepare` made -> windowed waveforms (B, K, window)."""
        normed = self.norm(features)
        bands, added = self.bands(normed), self.added(normed)
        with torch.autocast(features.device.type, enabled=False):
            size, turn, hiss_size, hiss_turn = (
                part @ self.mel_to_bins for part in bands.float().split(self.spectrum.n_mels, -1)
            )
            spectrum = voiced * torch.polar(_bounded(size).exp(), turn)
            spectrum = spectrum + hiss * torch.polar(_bounded(hiss_size).exp(), hiss_turn)
            real, imaginary = added.float().chunk(2, -1)
            spectrum = spectrum + torch.complex(real * envelope, imaginary * envelope)
            made = torch.fft.irfft(spectrum, self.spectrum.n_fft)[..., : self.spectrum.window]
            return cast(Tensor, made * self.window)

    def overlap_add(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K, window) -> their sum and that of the squared windows: (B, hop * (K - 1) + window), (same,)."""
        hop, length = self.spectrum.hop, self.spectrum.window
        squared = (self.window**2).expand(1, windows.shape[1], length)
        sums = []
        for values in (windows, squared):
            total = (values.shape[1] - 1) * hop + length
            sums.append(
                functional.fold(values.transpose(1, 2), (1, total), (1, length), stride=(1, hop)).reshape(-1, total)
            )
        return sums[0], sums[1][0]

    def _spectra(self, source: Tensor) -> Tensor:
        """(B, hop * (K - 1) + window) -> (B, K, bins)."""
        windows = source.unfold(1, self.spectrum.window, self.spectrum.hop)
        return cast(Tensor, torch.fft.rfft(windows * self.window, self.spectrum.n_fft))

    def _phase(self, gain: Tensor) -> Tensor:
        """The phase of the minimum-phase response with this log gain, by folding the cepstrum."""
        cepstrum = torch.fft.irfft(gain, self.spectrum.n_fft) * self.fold
        return cast(Tensor, torch.fft.rfft(cepstrum).imag)


def _bounded(log_gain: Tensor) -> Tensor:
    return LOUDEST * torch.tanh(log_gain / LOUDEST)


class SynthesisStream:
    """A synthesis in use: `push` frames as they come, `flush` at the end; all pieces joined are the waveform."""

    def __init__(self, synthesis: Synthesis, seed: int) -> None:
        self._synthesis = synthesis
        self._pulses = Pulses(synthesis.spectrum.hop)
        self._random = torch.Generator().manual_seed(seed)
        self._blocks = BlockStream()
        before = synthesis.spectrum.before
        # Sources from the window of the next frame on: pulses, noise.
        self._sources = [torch.zeros(1, before), torch.zeros(1, before)]
        self._waiting: list[tuple[Tensor, Tensor]] = []
        # Overlap-added output from the window of the next frame on, and the sum of the squared windows in it.
        self._sum, self._weight = torch.zeros(0), torch.zeros(0)
        self._unwanted = before

    def push(self, hidden: Tensor, frames: Tensor, log_f0: Tensor) -> Tensor:
        """The next frames, as `Synthesis.forward` takes them with B = 1, and every sample that they settle: (n,)."""
        if not hidden.shape[1]:
            return torch.zeros(0)
        spectrum = self._synthesis.spectrum
        # One draw for each sample, however the frames come: batches of numbers are drawn in another order.
        noise = torch.cat([torch.randn(1, spectrum.hop, generator=self._random) for _ in range(hidden.shape[1])], 1)
        self._extend(self._pulses.push(log_f0), noise)
        self._waiting.append((hidden, frames))
        ready = (self._sources[0].shape[1] - spectrum.window) // spectrum.hop + 1
        return self._advance(max(0, ready))

    def flush(self) -> Tensor:
        """The rest of the waveform: in all, `hop` samples per frame pushed."""
        before = self._synthesis.spectrum.before
        self._extend(torch.zeros(1, before), torch.zeros(1, before))
        settled = self._advance(sum(hidden.shape[1] for hidden, _ in self._waiting))
        rest = len(self._sum) - before
        return torch.cat([settled, self._sum[:rest] / self._weight[:rest].clamp_min(1e-3)])

    def _extend(self, *new: Tensor) -> None:
        self._sources = [torch.cat([old, more], 1) for old, more in zip(self._sources, new, strict=True)]

    def _advance(self, count: int) -> Tensor:
        """Make the next `count` frames and return the samples that no later frame reaches."""
        if not count:
            return torch.zeros(0)
        hop, window = self._synthesis.spectrum.hop, self._synthesis.spectrum.window
        hidden, frames = (torch.cat(parts, 1) for parts in zip(*self._waiting, strict=True))
        self._waiting = [(hidden[:, count:], frames[:, count:])]
        length = hop * (count - 1) + window
        features, *rest = self._synthesis.prepare(
            hidden[:, :count], frames[:, :count], *(source[:, :length] for source in self._sources)
        )
        self._sources = [source[:, hop * count :] for source in self._sources]
        for block in self._synthesis.blocks:
            features = self._blocks.advance(cast(Block, block), features)
        total, weight = self._synthesis.overlap_add(self._synthesis.windows(features, *rest))
        total = total[0]
        total[: len(self._sum)] += self._sum
        weight[: len(self._weight)] += self._weight
        settled = total[: hop * count] / weight[: hop * count].clamp_min(1e-3)
        self._sum, self._weight = total[hop * count :], weight[hop * count :]
        unwanted = min(self._unwanted, len(settled))
        self._unwanted -= unwanted
        return settled[unwanted:]
