"""Fitting the ridge vocoder: sums over all utterances, then one linear system.

1. Each utterance gives inputs X (T rows, one 1 per place and unit, and a constant) and targets Y (T rows, see
   `split_frames`). Only X'X, X'Y and the like are kept: memory does not grow with the corpus.
2. (X'X + P) W = X'Y is solved by Cholesky; the penalty P grows with the distance from the unit in the middle.
3. A held-out part (chosen by hashing row ids) measures the fit; the weights that are kept are fitted on everything.
"""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lst.constants import SAMPLES_PER_FRAME
from lst.vocoder.base import Units, pad_to
from lst.vocoder.pitch import estimate_pitch, interpolate_pitch
from lst.vocoder.source_filter import Frames
from lst.vocoder.spectrum import Spectrum

if TYPE_CHECKING:
    import scipy.sparse

Float = NDArray[np.float32]
Double = NDArray[np.float64]

DEFAULT_F0 = 160.0
"""Hz, for utterances without a single voiced frame; they hold no voice that it could change."""

BLOCK = 20_000
"""Units multiplied at once; the product is dense."""


def analyse(samples: Float, units: int, spectrum: Spectrum) -> Frames:
    """The frames of a recording on the grid of its units: 4 per unit. Cut or filled with silence to that length."""
    fitted = pad_to(np.asarray(samples, np.float32), units * SAMPLES_PER_FRAME)
    pitch = estimate_pitch(fitted, spectrum.hop)
    return Frames(spectrum.log_mel(fitted), interpolate_pitch(pitch, DEFAULT_F0), (pitch > 0).astype(np.float32))


def design(units: Units, context: int, num_units: int) -> "scipy.sparse.csr_matrix":
    """(T,) ids -> (T, (2 * context + 1) * (num_units + 1) + 1) with 2 * context + 2 ones per row."""
    import scipy.sparse

    count, places = len(units), 2 * context + 1
    outside = np.full(context, num_units, np.int64)
    padded = np.concatenate([outside, units, outside])
    columns = np.empty((count, places + 1), np.int64)
    for place in range(places):
        columns[:, place] = padded[place : place + count] + place * (num_units + 1)
    columns[:, places] = places * (num_units + 1)
    starts = np.arange(count + 1) * (places + 1)
    shape = (count, places * (num_units + 1) + 1)
    return scipy.sparse.csr_matrix((np.ones(columns.size), columns.reshape(-1), starts), shape=shape)


@dataclass
class RidgeSums:
    """X'X and X'Y of what was added. Products are made of many utterances at once."""

    context: int
    num_units: int
    width: int
    squares: Double = field(init=False)
    products: Double = field(init=False)
    rows: int = 0

    def __post_init__(self) -> None:
        size = (2 * self.context + 1) * (self.num_units + 1) + 1
        self.squares = np.zeros((size, size))
        self.products = np.zeros((size, self.width))
        self._units: list[Units] = []
        self._targets: list[Float] = []
        self._waiting = 0

    def add(self, units: Units, targets: Float) -> None:
        """One utterance: (T,) and (T, width)."""
        self._units.append(units)
        self._targets.append(targets)
        self._waiting += len(units)
        self.rows += len(units)
        if self._waiting >= BLOCK:
            self.settle()

    def settle(self) -> "RidgeSums":
        """Add what is waiting to the sums."""
        import scipy.sparse

        if self._waiting:
            inputs = scipy.sparse.vstack([design(units, self.context, self.num_units) for units in self._units]).tocsr()
            self.squares += (inputs.T @ inputs).toarray()
            self.products += inputs.T @ np.concatenate(self._targets)
            self._units, self._targets, self._waiting = [], [], 0
        return self

    def __add__(self, other: "RidgeSums") -> "RidgeSums":
        total = RidgeSums(self.context, self.num_units, self.width)
        total.squares = self.settle().squares + other.settle().squares
        total.products = self.products + other.products
        total.rows = self.rows + other.rows
        return total

    def solve(self, penalties: tuple[float, ...]) -> tuple[Float, Float]:
        """Weights (2 * context + 1, num_units + 1, width) and bias (width,).

        `penalties[d]` is for units at distance d from the middle; the constant is free.
        """
        import scipy.linalg

        self.settle()
        places = 2 * self.context + 1
        distances = np.abs(np.arange(places) - self.context)
        penalty = np.append(np.repeat(np.asarray(penalties)[distances], self.num_units + 1), 1e-6)
        factor = scipy.linalg.cho_factor(self.squares + np.diag(penalty), lower=True, overwrite_a=True)
        solution = scipy.linalg.cho_solve(factor, self.products, overwrite_b=False)
        # In C order: safetensors writes an array's memory as it lies.
        weights = np.ascontiguousarray(solution[:-1], np.float32).reshape(places, self.num_units + 1, self.width)
        return weights, np.ascontiguousarray(solution[-1], np.float32)


@dataclass
class FitErrors:
    """Differences between predicted and true frames, summed over held-out utterances."""

    frames: int = 0
    voiced: int = 0
    mel_error: float = 0.0
    f0_error: float = 0.0
    voicing_errors: int = 0

    def add(self, predicted: Frames, true: Frames) -> None:
        """One utterance."""
        is_voiced = true.voicing > 0.5
        semitones = (predicted.log_f0 - true.log_f0)[is_voiced] * (12 / np.log(2))
        self.frames += len(true)
        self.voiced += int(is_voiced.sum())
        self.mel_error += float(np.abs(predicted.log_mel - true.log_mel).mean(1).sum())
        self.f0_error += float((semitones**2).sum())
        self.voicing_errors += int(((predicted.voicing > 0.5) != is_voiced).sum())

    def numbers(self) -> dict[str, float]:
        """Mean log-mel distance in dB, RMS F0 error in semitones, share of frames with wrong voicing."""
        if not self.frames:
            return {}
        return {
            "log_mel_db": round(self.mel_error / self.frames * 10 / math.log(10), 3),
            "f0_semitones": round(math.sqrt(self.f0_error / max(1, self.voiced)), 3),
            "voicing_errors": round(self.voicing_errors / self.frames, 4),
        }
