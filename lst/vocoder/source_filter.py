"""The source-filter synthesiser: pulses at the fundamental and noise, shaped frame by frame to a mel spectrum.

    source     pulses of unit power spectrum at F0 where voiced, white noise beside them
    filter     per frame, the minimum-phase response whose power is the mel envelope; voiced frames take their lower
               bands from the pulses and their upper bands from the noise, others all from the noise

Everything is local, so it runs as frames arrive: a sample is settled 41 ms later (one window and half a pulse). The
noise comes from one seeded generator, read once per sample: cutting the input differently changes nothing.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lst.constants import SAMPLE_RATE
from lst.vocoder.spectrum import Spectrum, overlap_add

Float = NDArray[np.float32]
Double = NDArray[np.float64]

LOG_F0_RANGE = (float(np.log(50.0)), float(np.log(600.0)))
"""Where predictions for units that never stood together may not leave speech."""

REACH = 16
"""Half the length, in samples, of the windowed sinc that places a pulse between two samples."""


@dataclass(frozen=True)
class SourceFilterConfig:
    """How pulses and noise share a voiced frame. Chosen by DNSMOS on held-out prompts, see docs/vocoder.md."""

    noise_above_hz: float = 6000.0
    """Where noise and pulses are equally strong in a voiced frame."""
    noise_slope_hz: float = 1000.0
    noise_gain: float = 0.7
    """Of noise against what the mel spectrum asks for: a spectrum that is a mean over many frames asks for too much."""
    seed: int = 0


@dataclass(frozen=True)
class Frames:
    """What a waveform is made from: K spectral frames."""

    log_mel: Float
    """(K, n_mels) natural logarithm of power."""
    log_f0: Float
    """(K,) natural logarithm of Hz, defined everywhere."""
    voicing: Float
    """(K,) about 1 where voiced, about 0 elsewhere."""

    def __len__(self) -> int:
        return len(self.log_f0)

    def __getitem__(self, part: slice) -> "Frames":
        return Frames(self.log_mel[part], self.log_f0[part], self.voicing[part])


class SourceFilter:
    """A synthesiser with memory: `push` frames as they come, `flush` at the end; all pieces joined are the waveform."""

    def __init__(self, spectrum: Spectrum, config: SourceFilterConfig | None = None) -> None:
        self.spectrum = spectrum
        self.config = config or SourceFilterConfig()
        bins = np.linspace(0, SAMPLE_RATE / 2, spectrum.n_fft // 2 + 1)
        self._noise_share = 1 / (1 + np.exp(-(bins - self.config.noise_above_hz) / self.config.noise_slope_hz))
        self._hann = spectrum.hann.astype(np.float64)
        self._noise_generator = np.random.Generator(np.random.PCG64(self.config.seed))
        self._phase = 0.0
        self._last_f0: float | None = None
        # Sources from the window of the next frame on; the pulses of the last REACH samples are not all there yet.
        self._pulses = np.zeros(spectrum.before + REACH)
        self._noise = np.zeros(spectrum.before)
        self._waiting: list[Frames] = []
        # Overlap-added output from the window of the next frame on, and the sum of the squared windows in it.
        self._sum = np.zeros(0)
        self._weight = np.zeros(0)
        self._position = -spectrum.before
        self._pushed = 0

    def push(self, frames: Frames) -> Float:
        """The next frames (none are fine), and every sample that they settle."""
        if len(frames) == 0:
            return np.zeros(0, np.float32)
        self._excite(frames)
        self._waiting.append(frames)
        self._pushed += len(frames)
        ready = (len(self._pulses) - REACH - self.spectrum.window) // self.spectrum.hop + 1
        return self._filter(max(0, ready))

    def flush(self) -> Float:
        """The rest of the waveform: in all, `hop` samples per frame pushed."""
        self._pulses = np.concatenate([self._pulses, np.zeros(self.spectrum.window)])
        self._noise = np.concatenate([self._noise, np.zeros(self.spectrum.window)])
        settled = self._filter(sum(len(frames) for frames in self._waiting))
        rest = self._pushed * self.spectrum.hop - self._position
        tail = self._sum[:rest] / np.maximum(self._weight[:rest], 1e-3)
        return np.concatenate([settled, tail.astype(np.float32)])

    def _excite(self, frames: Frames) -> None:
        """Extend both sources by the samples of these frames. Log F0 runs in a line from one frame to the next."""
        hop, count = self.spectrum.hop, len(frames) * self.spectrum.hop
        last = float(frames.log_f0[0]) if self._last_f0 is None else self._last_f0
        knots = np.clip(np.concatenate([[last], frames.log_f0.astype(np.float64)]), *LOG_F0_RANGE)
        step = np.exp(np.interp((np.arange(count) + 1) / hop, np.arange(len(knots)), knots)) / SAMPLE_RATE
        self._last_f0 = float(frames.log_f0[-1])
        phase = self._phase + np.cumsum(step)
        wrapped = np.floor(phase) > np.floor(np.concatenate([[self._phase], phase[:-1]]))
        places = np.flatnonzero(wrapped)
        period = 1 / step[places]
        exact = places - (phase[places] - np.floor(phase[places])) * period
        self._phase = float(phase[-1] % 1.0)

        start = len(self._pulses) - REACH
        self._pulses = np.concatenate([self._pulses, np.zeros(count)])
        whole = np.floor(exact).astype(np.int64)
        offsets = np.arange(-REACH + 1, REACH + 1)
        distance = offsets[None, :] - (exact - whole)[:, None]
        shape = np.sinc(distance) * (0.5 + 0.5 * np.cos(np.pi * distance / (REACH + 1)))
        # Amplitude sqrt(period) gives pulses the power of unit noise, whatever their rate.
        np.add.at(self._pulses, start + whole[:, None] + offsets[None, :], shape * np.sqrt(period)[:, None])
        self._noise = np.concatenate([self._noise, self._noise_generator.standard_normal(count)])

    def _filter(self, count: int) -> Float:
        """Shape the next `count` frames and return the samples that no later frame reaches."""
        if count == 0:
            return np.zeros(0, np.float32)
        hop = self.spectrum.hop
        frames = _join(self._waiting)
        self._waiting = [frames[count:]]
        shaped = overlap_add(self._shape(frames[:count]), hop)
        weight = overlap_add(np.broadcast_to(self._hann**2, (count, len(self._hann))), hop)
        shaped[: len(self._sum)] += self._sum
        weight[: len(self._weight)] += self._weight
        complete = count * hop
        out = shaped[:complete] / np.maximum(weight[:complete], 1e-3)
        self._sum, self._weight = shaped[complete:], weight[complete:]
        self._pulses, self._noise = self._pulses[complete:], self._noise[complete:]
        silent = max(0, -self._position)
        self._position += complete
        return out[silent:].astype(np.float32)

    def _shape(self, frames: Frames) -> Double:
        """Windowed waveforms of the next frames: (k, window)."""
        spectrum = self.spectrum
        length = (len(frames) - 1) * spectrum.hop + spectrum.window

        def spectra(source: Double) -> NDArray[np.complex128]:
            windows = np.lib.stride_tricks.sliding_window_view(source[:length], spectrum.window)[:: spectrum.hop]
            return np.asarray(np.fft.rfft(windows * self._hann, spectrum.n_fft, axis=1))

        # The mel bands are means of power, so the flat sources have the power of the window in every band.
        log_power = frames.log_mel.astype(np.float64) @ spectrum.mel_to_bins.T - np.log((self._hann**2).sum())
        voiced = np.clip((frames.voicing.astype(np.float64) - 0.35) / 0.3, 0, 1)[:, None]
        noise_share = 1 - voiced * (1 - self._noise_share)
        mixed = spectra(self._pulses) * np.sqrt(1 - noise_share)
        mixed += spectra(self._noise) * (np.sqrt(noise_share) * self.config.noise_gain)
        response = minimum_phase(0.5 * log_power, spectrum.n_fft)
        return np.asarray(np.fft.irfft(mixed * response, spectrum.n_fft, axis=1))[:, : spectrum.window] * self._hann


def minimum_phase(log_gain: Double, n_fft: int) -> NDArray[np.complex128]:
    """Complex responses with the given log magnitudes and minimum phase, by folding the cepstrum: (K, bins) -> same."""
    cepstrum = np.fft.irfft(log_gain, n_fft, axis=1)
    cepstrum[:, 1 : n_fft // 2] *= 2
    cepstrum[:, n_fft // 2 + 1 :] = 0
    return np.exp(np.fft.rfft(cepstrum, axis=1))


def _join(parts: list[Frames]) -> Frames:
    return Frames(
        np.concatenate([part.log_mel for part in parts]),
        np.concatenate([part.log_f0 for part in parts]),
        np.concatenate([part.voicing for part in parts]),
    )
