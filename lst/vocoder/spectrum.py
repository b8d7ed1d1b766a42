"""Short-time spectra of 16 kHz speech in numpy: STFT and its inverse, mel bands, log-mel frames on the unit grid.

Frame k of a signal is centred on sample (k + 1/2) * hop, and a signal of `hop * K` samples has exactly K frames: with a
hop that divides 640, every 40 ms unit owns the same number of frames. No global normalisation anywhere, so that frame
k depends on the samples within half a window of its centre and on nothing else.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lst.constants import SAMPLE_RATE, SAMPLES_PER_FRAME

Float = NDArray[np.float32]
Complex = NDArray[np.complex64]
Real = NDArray[Any]

LOG_FLOOR = 1e-7
"""Added to mel energies before the logarithm: far below the noise of a 16-bit recording."""


@dataclass(frozen=True)
class Spectrum:
    """The analysis grid: `hop` and `window` in samples, `n_fft` bins, `n_mels` bands up to 8 kHz."""

    hop: int = 160
    window: int = 640
    n_fft: int = 1024
    n_mels: int = 80

    def __post_init__(self) -> None:
        odd = (self.window - self.hop) % 2
        if SAMPLES_PER_FRAME % self.hop or odd or not 2 * self.hop <= self.window <= self.n_fft:
            raise ValueError(f"{self}: the hop must divide {SAMPLES_PER_FRAME}, and 2 * hop <= window <= n_fft.")

    @property
    def frames_per_unit(self) -> int:
        """Spectral frames in one 40 ms unit."""
        return SAMPLES_PER_FRAME // self.hop

    @property
    def before(self) -> int:
        """Samples by which the window of a frame starts before the frame does."""
        return (self.window - self.hop) // 2

    @cached_property
    def hann(self) -> Float:
        """Periodic Hann window: (window,)."""
        phase = 2 * np.pi * (np.arange(self.window) + 0.5) / self.window
        return np.asarray(0.5 - 0.5 * np.cos(phase), np.float32)

    @cached_property
    def mel_weights(self) -> Float:
        """Triangular mel bands (HTK scale, 0 to 8 kHz), each summing to 1: (n_mels, n_fft // 2 + 1)."""
        bins = np.linspace(0, SAMPLE_RATE / 2, self.n_fft // 2 + 1)
        edges = _mel_to_hz(np.linspace(0, _hz_to_mel(SAMPLE_RATE / 2), self.n_mels + 2))
        rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
        fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
        weights = np.clip(np.minimum(rise, fall), 0, None)
        # The lowest bands are narrower than a bin's spacing allows; none may be left empty.
        centres = edges[1:-1]
        for band in np.flatnonzero(weights.sum(1) == 0):
            weights[band, np.abs(bins - centres[band]).argmin()] = 1
        return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)

    @cached_property
    def mel_to_bins(self) -> Float:
        """Linear interpolation of values at band centres to every bin: (n_fft // 2 + 1, n_mels)."""
        bins = np.linspace(0, SAMPLE_RATE / 2, self.n_fft // 2 + 1)
        centres = _mel_to_hz(np.linspace(0, _hz_to_mel(SAMPLE_RATE / 2), self.n_mels + 2))[1:-1]
        place = np.interp(_hz_to_mel(bins), _hz_to_mel(centres), np.arange(self.n_mels))
        lower = np.minimum(place.astype(np.int64), self.n_mels - 2)
        matrix = np.zeros((len(bins), self.n_mels), np.float32)
        rows = np.arange(len(bins))
        matrix[rows, lower] = 1 - (place - lower)
        matrix[rows, lower + 1] = place - lower
        return matrix

    def stft(self, samples: Float) -> Complex:
        """samples: (hop * K,) -> (K, n_fft // 2 + 1). Outside the signal is silence."""
        count = len(samples) // self.hop
        padded = np.zeros(count * self.hop + self.window, np.float32)
        padded[self.before : self.before + len(samples)] = samples
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.window)[: count * self.hop : self.hop]
        return np.asarray(np.fft.rfft(frames * self.hann, self.n_fft, axis=1), np.complex64)

    def istft(self, spectrum: Complex) -> Float:
        """(K, n_fft // 2 + 1) -> (hop * K,): overlap-add with the same window, least-squares normalised."""
        count = len(spectrum)
        frames = np.fft.irfft(spectrum, self.n_fft, axis=1)[:, : self.window].astype(np.float32) * self.hann
        total = overlap_add(frames, self.hop)
        weight = overlap_add(np.broadcast_to(self.hann**2, frames.shape), self.hop)
        signal = total / np.maximum(weight, 1e-3)
        return np.asarray(signal[self.before : self.before + count * self.hop], np.float32)

    def log_mel(self, samples: Float) -> Float:
        """Log mel power per frame, natural logarithm: (hop * K,) -> (K, n_mels)."""
        power = np.abs(self.stft(samples)) ** 2
        return np.asarray(np.log(power @ self.mel_weights.T + LOG_FLOOR), np.float32)


def overlap_add(frames: Real, hop: int) -> Real:
    """Sum frames (K, N) that start every `hop` samples: ((K - 1) * hop + N,).

    N is cut into hop-long pieces, and all frames' pieces are added one slice at a time.
    """
    count, length = frames.shape
    pieces = -(-length // hop)
    padded = np.zeros((count, pieces * hop), frames.dtype)
    padded[:, :length] = frames
    out = np.zeros((count + pieces - 1, hop), frames.dtype)
    for piece in range(pieces):
        out[piece : piece + count] += padded[:, piece * hop : (piece + 1) * hop]
    return out.reshape(-1)[: (count - 1) * hop + length]


def _hz_to_mel(hz: float | NDArray[np.float64]) -> NDArray[np.float64]:
    return 2595 * np.log10(1 + np.asarray(hz, np.float64) / 700)


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return 700 * (10 ** (mel / 2595) - 1)
