"""Fitting the exemplar vocoder: which numbers stand for the frames of a unit, and where a window of units lies.

1. Codes: the first principal components of the frames of a unit (of all units), in 8 bits each.
2. Places: ridge regression from a window of units to the code of the middle one; each component is measured by the
   standard deviation of what the regression leaves open, so that what units say nothing of does not count.
3. The exemplars are all units of the corpus with their codes.

The frames of the whole corpus are kept in memory, 59 MB for an hour of speech.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lst.vocoder.base import Float, Units
from lst.vocoder.exemplar import ExemplarConfig, ExemplarWeights
from lst.vocoder.fitting import RidgeSums
from lst.vocoder.ridge import add_tables

F0_SCALE = 8.0
"""Log F0 counts this much more than a log-mel band: an octave as much as 24 dB in one band."""
VOICING_SCALE = 4.0


@dataclass
class Utterance:
    """Units (T,) and their frames (T, width) in half precision, as `join_frames` lays them out."""

    units: Units
    frames: np.ndarray


def fit_exemplars(
    utterances: Sequence[Utterance], config: ExemplarConfig, components: int, penalties: tuple[float, ...]
) -> ExemplarWeights:
    """The weights of a vocoder whose exemplars are the units of `utterances`, with codes of `components` numbers."""
    mean, basis, scale = _principal_components(utterances, config, components)
    codes = [np.asarray((utterance.frames * scale - mean) @ basis.T, np.float32) for utterance in utterances]
    sums = RidgeSums(config.context, config.num_units, components)
    for utterance, code in zip(utterances, codes, strict=True):
        sums.add(utterance.units, code)
    tables, bias = sums.solve(penalties)
    tables /= _open_deviation(utterances, codes, tables, bias, config)
    everything = np.concatenate(codes)
    step = np.maximum(np.abs(everything).max(0), 1e-6) / 127
    return ExemplarWeights(
        tables=tables.astype(np.float16),
        codes=np.rint(everything / step).astype(np.int8),
        step=step.astype(np.float32),
        basis=np.ascontiguousarray(basis / scale, np.float32),
        mean=(mean / scale).astype(np.float32),
        units=np.concatenate([utterance.units for utterance in utterances]).astype(np.uint16),
        lengths=np.array([len(utterance.units) for utterance in utterances], np.uint32),
    )


def _principal_components(
    utterances: Sequence[Utterance], config: ExemplarConfig, components: int
) -> tuple[Float, Float, Float]:
    """Mean (width,) and orthonormal components (components, width) of scaled frames, and their scale (width,)."""
    per_unit, n_mels = config.spectrum.frames_per_unit, config.spectrum.n_mels
    scale = np.repeat([1.0, F0_SCALE, VOICING_SCALE], [per_unit * n_mels, per_unit, per_unit]).astype(np.float32)
    count, total = 0, np.zeros(len(scale))
    squares = np.zeros((len(scale), len(scale)))
    for utterance in utterances:
        values = utterance.frames.astype(np.float64) * scale
        count += len(values)
        total += values.sum(0)
        squares += values.T @ values
    mean = total / count
    _, vectors = np.linalg.eigh(squares / count - np.outer(mean, mean))
    return mean.astype(np.float32), vectors[:, ::-1][:, :components].T.astype(np.float32), scale


def _open_deviation(
    utterances: Sequence[Utterance], codes: list[Float], tables: Float, bias: Float, config: ExemplarConfig
) -> Float:
    """Root mean square of codes less what their units predict, by component: (D,)."""
    outside = np.full(config.context, config.num_units)
    count, total = 0, np.zeros(tables.shape[-1])
    for utterance, code in zip(utterances, codes, strict=True):
        left = code - add_tables(tables, bias, np.concatenate([outside, utterance.units, outside]))
        total += (left.astype(np.float64) ** 2).sum(0)
        count += len(code)
    return np.maximum(np.sqrt(total / count), 1e-3).astype(np.float32)
