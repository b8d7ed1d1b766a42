"""MFCC-39 at 25 Hz: the features of HuBERT's first iteration (Hsu et al. 2021, section IV), in plain numpy.

1. Kaldi MFCC at 100 Hz: 25 ms Povey windows centred in each 10 ms, 23 mel bands, 13 liftered cepstra.
2. Deltas and delta-deltas over +-2 frames: 39 values.
3. The mean of the four 10 ms frames inside each 40 ms unit.

All in float64 and frame by frame: features depend on the few frames around them and on nothing else, so windows of a
long recording join without a trace, and neither threads nor the cut move a unit.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lst.constants import SAMPLE_RATE, SAMPLES_PER_FRAME
from lst.units.spec import MfccSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

WINDOW = 400
HOP = 160
FFT = 512
MEL_BANDS = 23
LOWEST_HZ = 20.0
CEPSTRA = 13
LIFTER = 22
PREEMPHASIS = 0.97
FLOOR = float(np.finfo(np.float32).eps)
"""Mel energies below this count as silence (Kaldi's floor for samples between -1 and 1)."""

FRAMES_PER_UNIT = SAMPLES_PER_FRAME // HOP
BLOCK = 4096
"""Frames of 10 ms transformed at a time: bounds memory at about 40 MB."""


class MfccEncoder:
    """n samples give ceil(n / 640) frames: every sample lies in exactly one. Edges are mirrored, as Kaldi does."""

    dim = 3 * CEPSTRA

    def num_frames(self, num_samples: int) -> int:
        """ceil(n / 640)."""
        return -(-num_samples // SAMPLES_PER_FRAME)

    def num_samples(self, num_frames: int) -> int:
        """640 per frame."""
        return num_frames * SAMPLES_PER_FRAME

    def features(self, samples: "NDArray[np.float32]") -> "NDArray[np.float64]":
        """(n,) -> (ceil(n / 640), 39) float64."""
        units = self.num_frames(len(samples))
        if units == 0:
            return np.zeros((0, self.dim))
        static = cepstra(samples, units * FRAMES_PER_UNIT)
        first = deltas(static)
        frames = np.concatenate([static, first, deltas(first)], axis=1)
        mean: NDArray[np.float64] = frames.reshape(units, FRAMES_PER_UNIT, self.dim).mean(axis=1)
        return mean


def load_mfcc(spec: MfccSpec, directory: Path, device: str) -> MfccEncoder:
    """The encoder of a tokenizer of kind mfcc: it has no files, and computes on the CPU."""
    return MfccEncoder()


def cepstra(samples: "NDArray[np.float32]", num_frames: int) -> "NDArray[np.float64]":
    """(n,) -> (num_frames, 13) MFCC, frame i centred at sample 160 i + 80; the audio is mirrored beyond its ends.

    Equals torchaudio.compliance.kaldi.mfcc(use_energy=False, snip_edges=False) up to float32 rounding.
    """
    side = (WINDOW - HOP) // 2
    padded = np.pad(samples.astype(np.float64), (side, side + num_frames * HOP - len(samples)), mode="symmetric")
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:num_frames]
    blocks = [_cepstra_of_frames(frames[start : start + BLOCK]) for start in range(0, num_frames, BLOCK)]
    return np.concatenate(blocks)


def deltas(values: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """(T, D) -> (T, D) slopes of the least-squares line over +-2 frames, the first and last frame repeated."""
    padded = np.pad(values, ((2, 2), (0, 0)), mode="edge")
    count = len(values)
    slope: NDArray[np.float64] = 2 * (padded[4:] - padded[:count]) + (padded[3:-1] - padded[1 : 1 + count])
    return slope / 10


def _cepstra_of_frames(frames: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """(T, 400) -> (T, 13)."""
    window, mel, cosines = _tables()
    centred = frames - frames.mean(axis=1, keepdims=True)
    emphasised = centred.copy()
    emphasised[:, 1:] -= PREEMPHASIS * centred[:, :-1]
    emphasised[:, 0] *= 1 - PREEMPHASIS
    power = np.abs(np.fft.rfft(emphasised * window, FFT)) ** 2
    log_mel = np.log(np.maximum(power @ mel, FLOOR))
    result: NDArray[np.float64] = log_mel @ cosines
    return result


@cache
def _tables() -> tuple["NDArray[np.float64]", "NDArray[np.float64]", "NDArray[np.float64]"]:
    """Povey window (400,), mel filters (257, 23), liftered cosine transform (23, 13)."""
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / (WINDOW - 1))) ** 0.85

    def mel(hertz: "float | NDArray[np.float64]") -> "NDArray[np.float64]":
        scale: NDArray[np.float64] = 1127 * np.log(1 + np.asarray(hertz) / 700)
        return scale

    edges = np.linspace(mel(LOWEST_HZ), mel(SAMPLE_RATE / 2), MEL_BANDS + 2)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    bins = mel(np.arange(FFT // 2 + 1) * SAMPLE_RATE / FFT)[:, None]
    filters = np.maximum(0, np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)))
    order = np.arange(CEPSTRA)
    cosines = np.cos(np.pi / MEL_BANDS * (np.arange(MEL_BANDS)[:, None] + 0.5) * order) * np.sqrt(2 / MEL_BANDS)
    cosines[:, 0] = np.sqrt(1 / MEL_BANDS)
    return window, filters, cosines * (1 + LIFTER / 2 * np.sin(np.pi * order / LIFTER))
