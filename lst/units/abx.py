"""ABX: are two sayings of one phone nearer to each other than to another phone in the same surroundings?

A triple is A (phone p), B (phone q) and X (p again), each with the same phone before and after. It is right if X is
nearer to A than to B; half right if both are equally far. *Within*: one speaker says all three. *Across*: X is
another's. The error is the share that is wrong: the mean over triples of each pair (p, q), then over pairs, so that
frequent phones do not count more (Schatz et al. 2013; Kahn et al. 2020, "Libri-Light", section 4.1). Distances are
those of dynamic time warping over the frames of the whole triphone, divided by the length of the path.

Triples are drawn: so many of them bound the time, whatever the corpus.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lst.constants import FRAME_RATE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Distance = Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float64]]

GAP_S = 0.005
"""Phones further apart than this do not follow each other."""
BLOCK = 1024
"""Triples compared at a time."""
MOST_PER_CELL = 10
"""Triples of one pair, surroundings and speakers; more say nothing new."""


@dataclass(frozen=True, order=True)
class Triphone:
    """A phone between two others: frames `start` to `stop` (end exclusive) of `utterance` hold all three."""

    before: str
    after: str
    phone: str
    speaker: str
    utterance: str
    start: int
    stop: int


@dataclass(frozen=True)
class Triple:
    """`x` is the same phone as `a`; `b` is another."""

    a: Triphone
    b: Triphone
    x: Triphone


def triphones(
    spans: Sequence[tuple[float, float, str]], frames: int, *, utterance: str, speaker: str
) -> list[Triphone]:
    """Every phone of an utterance that has one before and one after, without a pause between.

    `spans`: (start_s, end_s, phone) in order. A frame belongs to a span if its middle does; triphones without a frame
    are left out.
    """
    found = []
    for (start, end, before), (first, last, phone), (onset, stop, after) in zip(
        spans, spans[1:], spans[2:], strict=False
    ):
        if first - end > GAP_S or onset - last > GAP_S:
            continue
        begin, finish = (int(np.ceil(second * FRAME_RATE - 0.5)) for second in (start, stop))
        begin, finish = max(begin, 0), min(finish, frames)
        if begin < finish:
            found.append(Triphone(before, after, phone, speaker, utterance, begin, finish))
    return found


def draw_triples(items: Sequence[Triphone], *, across: bool, most: int, seed: int) -> list[Triple]:
    """At most `most` triples, spread over all pairs, surroundings and speakers; the order of `items` does not matter.

    Empty if there are none: with one speaker there is nothing across.
    """
    by_place: dict[tuple[str, str], dict[str, dict[str, list[Triphone]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for item in sorted(items):
        by_place[item.before, item.after][item.phone][item.speaker].append(item)
    # A cell: those who may be A, B and X.
    cells: list[tuple[list[Triphone], list[Triphone], list[Triphone]]] = []
    for phones in by_place.values():
        for phone, same in phones.items():
            for other, different in phones.items():
                if other == phone:
                    continue
                for speaker in sorted(same.keys() & different.keys()):
                    ours = same[speaker]
                    if across:
                        cells += [(ours, different[speaker], said) for who, said in same.items() if who != speaker]
                    elif len(ours) > 1:
                        cells.append((ours, different[speaker], ours))
    random = np.random.default_rng([seed, int(across)])
    chosen = random.permutation(len(cells))[:most]
    each = min(MOST_PER_CELL, most // len(cells)) if cells else 0
    triples = []
    for index in chosen:
        firsts, others, lasts = cells[index]
        for _ in range(max(1, each)):
            a = int(random.integers(len(firsts)))
            x = int(random.integers(len(lasts) - (lasts is firsts)))
            x += lasts is firsts and x >= a  # never A itself
            triples.append(Triple(firsts[a], others[int(random.integers(len(others)))], lasts[x]))
    return triples


def abx_error(triples: Sequence[Triple], sequences: Mapping[str, "NDArray[Any]"], distance: "Distance") -> float:
    """The share of wrong triples. `sequences`: by utterance, (frames,) units or (frames, dim) features.

    `distance` takes two batches of frames, (B, N, …) and (B, M, …), and gives (B, N, M): `angles` or `unequal`.
    """
    right: dict[tuple[str, str], list[float]] = defaultdict(list)
    for start in range(0, len(triples), BLOCK):
        block = triples[start : start + BLOCK]
        a, b, x = ([_frames(item, sequences) for item in items] for items in zip(*((t.a, t.b, t.x) for t in block)))
        near, far = (warped_distance(x, other, distance) for other in (a, b))
        scores = np.where(np.isclose(near, far, rtol=0, atol=1e-9), 0.5, near < far)
        for triple, score in zip(block, scores, strict=True):
            right[triple.a.phone, triple.b.phone].append(float(score))
    return 1 - float(np.mean([np.mean(scores) for _, scores in sorted(right.items())]))


def _frames(item: Triphone, sequences: Mapping[str, "NDArray[Any]"]) -> "NDArray[Any]":
    return sequences[item.utterance][item.start : item.stop]


def warped_distance(
    ones: Sequence["NDArray[Any]"], others: Sequence["NDArray[Any]"], distance: "Distance"
) -> "NDArray[np.float64]":
    """Dynamic time warping of pairs of sequences: (B,) mean distances along the cheapest paths.

    A step goes on in one sequence or in both; of equally cheap ways the one in both is taken, then in the first.
    """
    costs = distance(_padded(ones), _padded(others))
    batch, rows, columns = costs.shape
    total = np.full((batch, rows + 1, columns + 1), np.inf)
    length = np.zeros((batch, rows + 1, columns + 1))
    total[:, 0, 0] = 0
    every = np.arange(batch)
    for row in range(1, rows + 1):
        for column in range(1, columns + 1):
            before = ((row - 1, column - 1), (row - 1, column), (row, column - 1))
            best = np.argmin(np.stack([total[:, i, j] for i, j in before]), axis=0)
            i, j = np.array(before)[best].T
            total[:, row, column] = total[every, i, j] + costs[:, row - 1, column - 1]
            length[:, row, column] = length[every, i, j] + 1
    ends = np.array([[len(one), len(other)] for one, other in zip(ones, others, strict=True)]).T
    return np.asarray(total[every, ends[0], ends[1]] / length[every, ends[0], ends[1]])


def _padded(sequences: Sequence["NDArray[Any]"]) -> "NDArray[Any]":
    """(B, longest, …): what is behind a sequence's end is never on its path."""
    longest = max(map(len, sequences))
    padded = np.zeros((len(sequences), longest, *sequences[0].shape[1:]), sequences[0].dtype)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return padded


def unequal(ones: "NDArray[Any]", others: "NDArray[Any]") -> "NDArray[np.float64]":
    """Units: (B, N) and (B, M) -> (B, N, M), 0 where they are the same, else 1."""
    return np.asarray(ones[:, :, None] != others[:, None, :], dtype=np.float64)


def angles(ones: "NDArray[Any]", others: "NDArray[Any]") -> "NDArray[np.float64]":
    """Features: (B, N, D) and (B, M, D) -> (B, N, M) angles, 1 for opposite directions."""
    cosine = np.matmul(_unit_length(ones), _unit_length(others).transpose(0, 2, 1))
    return np.asarray(np.arccos(np.clip(cosine, -1, 1)) / np.pi)


def _unit_length(vectors: "NDArray[Any]") -> "NDArray[np.float64]":
    vectors = vectors.astype(np.float64)
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12))
