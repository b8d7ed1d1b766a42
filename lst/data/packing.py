"""Packing documents into rows of a fixed budget of global units (patches, text and control tokens).

Each row takes the oldest waiting document, and from the others the set that fills the row best: an exact subset sum
over at least `pool` waiting documents, done with the bits of one integer per document (64 documents into 4,096 units
take about 20 microseconds). Older documents are preferred among equally good sets, so none waits long; documents are
never cut here. The same documents in the same order always give the same rows.
"""

from collections.abc import Sequence
from typing import Generic, TypeVar

from lst.errors import LstError

T = TypeVar("T")


def best_fill(lengths: Sequence[int], budget: int) -> list[int]:
    """Indices, ascending and with 0 among them, of documents whose lengths come closest to `budget` from below."""
    room = budget - lengths[0]
    mask = (1 << (room + 1)) - 1
    reachable = [1]  # bit s: some of the documents seen so far, besides the first, add up to s
    for length in lengths[1:]:
        if reachable[-1] >> room & 1:
            break
        reachable.append((reachable[-1] | reachable[-1] << length) & mask)
    left = reachable[-1].bit_length() - 1
    chosen = []
    for index in range(len(reachable) - 1, 0, -1):
        if not reachable[index - 1] >> left & 1:  # only with this document
            chosen.append(index)
            left -= lengths[index]
    return [0, *reversed(chosen)]


class Packer(Generic[T]):
    """Documents wait here until a row is packed. `waiting` is in order of arrival, and with it the whole state."""

    def __init__(self, budget: int, pool: int) -> None:
        self.budget = budget
        self.pool = pool
        self.waiting: list[T] = []
        self._lengths: list[int] = []
        self._units = 0

    @property
    def hungry(self) -> bool:
        """Whether more documents should be pushed before the next `pop`: fewer than `pool`, or than two rows' worth."""
        return len(self.waiting) < self.pool or self._units < 2 * self.budget

    def push(self, document: T, length: int) -> None:
        """Add a document of 1 to `budget` global units."""
        if not 0 < length <= self.budget:
            raise LstError(f"A document of {length} global units does not fit a row of {self.budget}.")
        self.waiting.append(document)
        self._lengths.append(length)
        self._units += length

    def pop(self) -> list[T]:
        """The documents of the next row, in order of arrival. Raises IndexError if none waits."""
        chosen = best_fill(self._lengths, self.budget)
        row = [self.waiting[index] for index in chosen]
        for index in reversed(chosen):
            self._units -= self._lengths[index]
            del self.waiting[index], self._lengths[index]
        return row
