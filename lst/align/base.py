"""What every aligner takes and gives, and how times become frames of the 25 Hz grid."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lst.constants import FRAME_RATE
from lst.text.normalise import NormalisedWord, normalise_words

MAX_SHIFT_S = 0.2
"""By how much a calibration moves boundaries at most: an aligner that is farther off has not learnt to align."""


@dataclass(frozen=True)
class Word:
    """A word of the text as written, on the 25 Hz grid: frames start .. end - 1, and a score in 0 .. 1."""

    text: str
    start: int
    end: int
    score: float


@dataclass(frozen=True)
class TimedWord:
    """A spoken word, or None for a stretch to be left out, in seconds, with its score."""

    start_s: float
    end_s: float
    score: float


@dataclass(frozen=True)
class Phone:
    """A phone (or character) in seconds; `name` is the aligner's own."""

    name: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Alignment:
    """Words on the grid, or why there are none.

    words: every word of the text, in order, not overlapping. score: of the whole, 0 .. 1, mean of the words by their
    length. rejected: empty, or a short reason (no-text, text-other-script, alignment-failed, ...); detail says more.
    unknown: spoken words that are in no dictionary. phones: the finer alignment, where the aligner has one. times: the
    words in seconds, before they were put on the grid.
    """

    words: list[Word] = field(default_factory=list)
    score: float = 0.0
    rejected: str | None = None
    detail: str = ""
    unknown: list[str] = field(default_factory=list)
    phones: list[Phone] = field(default_factory=list)
    times: list[TimedWord] = field(default_factory=list)


class Aligner(ABC):
    """Finds the words of a transcript in speech."""

    name: str
    fingerprint: str
    language: str = "en"

    @abstractmethod
    def align(self, samples: npt.NDArray[np.float32], text: str, num_frames: int) -> Alignment:
        """Align `text` with 16 kHz mono `samples` (n,) on a grid of `num_frames` frames of 40 ms.

        Never raises for bad speech or text: `Alignment.rejected` says what is wrong.
        """

    def read(self, text: str) -> list[NormalisedWord]:
        """The words of a text and what is spoken for each."""
        return normalise_words(text, self.language)


def nearest_frame(seconds: float) -> int:
    """The boundary of the 25 Hz grid next to a time; halfway goes up (not to even), wherever in a recording it is."""
    return int(seconds * FRAME_RATE + 0.5 + 1e-6)


def on_grid(words: Sequence[NormalisedWord], times: Sequence[TimedWord], num_frames: int) -> list[Word] | None:
    """Words on the 25 Hz grid, each at least one frame, none overlapping; None if there are more words than frames.

    Times are those of the written words. A boundary goes to the nearest frame; a word that would vanish takes a frame
    from its right neighbour, and at the end of the recording from its left one.
    """
    if len(words) > num_frames:
        return None
    starts, ends = [], []
    free = 0
    for time in times:
        start = max(free, nearest_frame(time.start_s))
        end = max(start + 1, nearest_frame(time.end_s))
        starts.append(start)
        ends.append(end)
        free = end
    limit = num_frames
    for index in reversed(range(len(words))):
        ends[index] = min(ends[index], limit)
        starts[index] = min(starts[index], ends[index] - 1)
        limit = starts[index]
    return [
        # Spaces inside a word of the text (a dash that joined it) are written as one.
        Word(" ".join(word.original.split()), start, end, float(np.float32(time.score)))
        for word, time, start, end in zip(words, times, starts, ends)
    ]
