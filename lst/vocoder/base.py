"""What every vocoder is: units of one tokenizer in, a waveform of exactly 640 samples per unit out."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lst.constants import FRAME_RATE, SAMPLE_RATE, SAMPLES_PER_FRAME
from lst.errors import LstError

Float = NDArray[np.float32]
Units = NDArray[np.int64]

KNEE = 0.8
"""Samples up to here stay as they are; above, they are bent towards 1 and never reach it."""

FADE = SAMPLE_RATE // 200
"""5 ms of rise and fall, so that no waveform starts or ends with a click."""


class Vocoder(ABC):
    """Units to waveform. Results depend on the units alone: noise and phases are seeded."""

    name: str
    fingerprint: str
    """Hex SHA-256 of everything that determines the waveform."""
    tokenizer_fingerprint: str
    """Of the tokenizer whose units it was made for; empty if its files do not say."""
    num_units: int
    frame_rate = FRAME_RATE
    sample_rate = SAMPLE_RATE

    def synthesize(self, units: Any) -> Float:
        """units: (T,) integers, 25 per second -> (640 * T,) samples in (-1, 1) at 16 kHz.

        Raises LstError for an empty list, or for an id that the vocoder does not have.
        """
        checked = check_units(units, self.num_units, self.name)
        return finish(self.render(checked))

    def stream(self, units: Iterable[int], block: int = 1) -> Iterator[Float]:
        """The same waveform in pieces, each as soon as `block` more units have settled it; here: all at the end.

        Vocoders with a bounded look-ahead override this. Raises as `synthesize`.
        """
        yield self.synthesize(list(units))

    @abstractmethod
    def render(self, units: Units) -> Float:
        """(T,) valid ids, T > 0 -> (640 * T,) samples, not yet limited or faded."""


def check_units(units: Any, num_units: int, name: str) -> Units:
    """`units` as (T,) int64. Raises LstError if it is not a non-empty list of ids below `num_units`."""
    array = np.asarray(units)
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise LstError(
            f"Units must be a plain list of whole numbers, not {array.dtype} of shape {array.shape}.",
            hint="Units are ids of 40 ms frames, such as [17, 17, 402].",
        )
    if array.size == 0:
        raise LstError("There are no units to make sound of.", hint="Give at least one unit (40 ms).")
    array = array.astype(np.int64)
    outside = np.flatnonzero((array < 0) | (array >= num_units))
    if outside.size:
        raise LstError(
            f"Unit {array[outside[0]]} at place {outside[0]} is outside 0 to {num_units - 1}, "
            f"the units of the vocoder {name}.",
            hint="These are not units of the tokenizer it was made for.",
        )
    return array


def finish(samples: Float) -> Float:
    """Limit the peaks and fade both ends: (n,) -> (n,), n > 0."""
    limited = limit(samples)
    length = min(FADE, len(limited) // 2)
    limited[:length] *= fade_in(length)
    limited[len(limited) - length :] *= fade_in(length)[::-1]
    return limited


def limit(samples: Float) -> Float:
    """A soft limiter without memory: the identity up to `KNEE`, then a tanh towards 1. (n,) -> (n,), a copy."""
    magnitude = np.abs(samples)
    bent = KNEE + (1 - KNEE) * np.tanh((magnitude - KNEE) / (1 - KNEE))
    # tanh rounds to 1 for large arguments; the largest 16-bit sample is the top.
    bent = np.minimum(bent, 32767 / 32768)
    return np.where(magnitude > KNEE, np.sign(samples) * bent, samples).astype(np.float32)


def fade_in(length: int) -> Float:
    """A raised cosine from 0 to 1: (length,)."""
    return (0.5 - 0.5 * np.cos(np.pi * (np.arange(length) + 0.5) / max(1, length))).astype(np.float32)


def pad_to(samples: Float, count: int) -> Float:
    """Cut or fill with silence to `count` samples."""
    if len(samples) >= count:
        return samples[:count]
    return np.concatenate([samples, np.zeros(count - len(samples), np.float32)])


def expected_samples(units: int) -> int:
    """640 samples per unit."""
    return units * SAMPLES_PER_FRAME
