"""Forced alignment over a graph of phones: exact Viterbi, vectorised over the states of one frame at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lst.align.sphinx_model import AcousticModel, Floats, Ints

GAP = -1
"""Word index of a pause."""

ANYTHING = -1
"""A pronunciation of this one phone is a stretch of any speech: its states are numbered S, after the model's own."""

_PAUSE_PENALTY = np.float32(np.log(0.005))  # sphinx's silprob
_VARIANT_LIMIT = 8


@dataclass(frozen=True)
class PhoneGraph:
    """Every way to say a word sequence, with optional pauses: N phones in context and the arcs between them.

    word: (N,) index of the word a phone belongs to, GAP for a pause; place: (N,) its index in the pronunciation.
    phone: (N,) base phone, or ANYTHING; senones: (N, 3). before: (N, K) predecessors, padded with N. entry: (N,) if
    speech may start here; exit: (N,) if it may end here; penalty: (N,) log probability of entering.
    """

    word: Ints
    place: Ints
    phone: Ints
    senones: npt.NDArray[np.int64]
    before: Ints
    entry: npt.NDArray[np.bool_]
    exit: npt.NDArray[np.bool_]
    penalty: Floats


@dataclass(frozen=True)
class PhoneSpan:
    """A phone of the best path: word index (or GAP), base phone, frames [start, end), log density over them."""

    word: int
    phone: int
    start: int
    end: int
    log_density: float


class _Builder:
    def __init__(self, model: AcousticModel) -> None:
        self.model = model
        self.rows: list[tuple[int, int, int, int, float]] = []  # word, place, phone, model phone, penalty
        self.before: list[list[int]] = []

    def add(self, word: int, place: int, phone: int, tied: int, penalty: float = 0.0) -> int:
        self.rows.append((word, place, phone, tied, penalty))
        self.before.append([])
        return len(self.rows) - 1


@dataclass
class _Edge:
    """A phone at a word's boundary, with the neighbours across it that its triphone stands for."""

    node: int
    phone: int
    neighbours: frozenset[int]


def build_graph(
    model: AcousticModel, words: Sequence[Sequence[Sequence[int]]], *, open_end: bool = False
) -> PhoneGraph:
    """Compile words, each a list of pronunciations (lists of base phones), into a graph.

    Phones at word boundaries are there once for each triphone that a neighbouring word, or a pause, asks for. With
    `open_end` the speech may stop after any word, or before the first.
    """
    builder = _Builder(model)
    silence = model.silence
    words = [list(variants[:_VARIANT_LIMIT]) for variants in words]

    def context(phone: int) -> int:
        return silence if phone == ANYTHING else phone

    pause = builder.add(GAP, 0, silence, silence, float(_PAUSE_PENALTY))
    starts, ends = [pause], [pause]
    previous: list[_Edge] = []
    for index, variants in enumerate(words):
        left = {silence} | {context(variant[-1]) for variant in (words[index - 1] if index else [])}
        right = {silence} | {context(variant[0]) for variant in (words[index + 1] if index + 1 < len(words) else [])}
        entries: list[_Edge] = []
        exits: list[_Edge] = []
        for variant in variants:
            _add_variant(builder, index, variant, left, right, entries, exits)
        for edge in entries:
            if silence in edge.neighbours:
                builder.before[edge.node].append(pause)
            for other in previous:
                if context(other.phone) in edge.neighbours and context(edge.phone) in other.neighbours:
                    builder.before[edge.node].append(other.node)
        if index == 0:
            starts.extend(edge.node for edge in entries if silence in edge.neighbours)
        pause = builder.add(GAP, 0, silence, silence, float(_PAUSE_PENALTY))
        builder.before[pause] = [edge.node for edge in exits if silence in edge.neighbours]
        previous = exits
        here = [pause, *builder.before[pause]]
        ends = [*ends, *here] if open_end else here
    return _finish(builder, starts, ends)


def _add_variant(
    builder: _Builder,
    word: int,
    phones: Sequence[int],
    left: set[int],
    right: set[int],
    entries: list[_Edge],
    exits: list[_Edge],
) -> None:
    model = builder.model
    if list(phones) == [ANYTHING]:
        node = builder.add(word, 0, ANYTHING, ANYTHING)
        entries.append(_Edge(node, ANYTHING, frozenset(left)))
        exits.append(_Edge(node, ANYTHING, frozenset(right)))
        return
    last = len(phones) - 1
    chain: list[int] = []
    for place, phone in enumerate(phones):
        first_phone, last_phone = place == 0, place == last
        position = "s" if last == 0 else "b" if first_phone else "e" if last_phone else "i"
        lefts = sorted(left) if first_phone else [phones[place - 1]]
        rights = sorted(right) if last_phone else [phones[place + 1]]
        groups: dict[bytes, tuple[int, set[int], set[int]]] = {}
        for before in lefts:
            for after in rights:
                tied = model.triphone(phone, before, after, position)
                # One node for all contexts that share their states; its arcs allow any of them.
                key = model.states[tied].tobytes()
                # In a word of one phone, both contexts must hold at once.
                key += bytes([before, after]) if last == 0 else b""
                group = groups.setdefault(key, (tied, set(), set()))
                group[1].add(before)
                group[2].add(after)
        nodes = []
        for tied, befores, afters in groups.values():
            node = builder.add(word, place, phone, tied)
            nodes.append(node)
            if first_phone:
                entries.append(_Edge(node, phone, frozenset(befores)))
            else:
                builder.before[node].extend(chain)
            if last_phone:
                exits.append(_Edge(node, phone, frozenset(afters)))
        chain = nodes


def _finish(builder: _Builder, starts: Sequence[int], ends: Sequence[int]) -> PhoneGraph:
    word, place, phone, tied, penalty = (np.array(column) for column in zip(*builder.rows))
    count = len(word)
    width = max(1, max(map(len, builder.before)))
    before = np.full((count, width), count, np.int32)
    for node, others in enumerate(builder.before):
        before[node, : len(others)] = others
    entry = np.zeros(count, bool)
    entry[list(starts)] = True
    leave = np.zeros(count, bool)
    leave[list(ends)] = True
    senones = builder.model.states[tied].astype(np.int64)
    senones[tied == ANYTHING] = builder.model.num_senones
    return PhoneGraph(
        word.astype(np.int32),
        place.astype(np.int32),
        phone.astype(np.int32),
        senones,
        before,
        entry,
        leave,
        penalty.astype(np.float32),
    )


def viterbi(
    model: AcousticModel, graph: PhoneGraph, densities: Floats, columns: npt.NDArray[np.int64]
) -> list[PhoneSpan] | None:
    """The best path through `graph`, or None if the speech is too short for it.

    densities: (T, C) log densities, of which `columns` (N, 3) are those of the graph's states.
    Time O(T N), memory 3 T N bytes.
    """
    frames, count = len(densities), len(graph.word)
    transitions = model.transitions[np.where(graph.phone == ANYTHING, model.silence, graph.phone)]
    stay = transitions[:, [0, 1, 2], [0, 1, 2]]
    move = transitions[:, [0, 1, 2], [1, 2, 3]]
    worst = np.float32(-1e30)
    score = np.full((count + 1, 3), worst, np.float32)
    arrows = np.zeros((frames, count, 3), np.uint8)
    leaving = np.full(count + 1, worst, np.float32)
    rows = np.arange(count)
    for frame in range(frames):
        observed = densities[frame][columns]
        if frame == 0:
            score[:count][graph.entry, 0] = graph.penalty[graph.entry]
            score[:count] += observed
            continue
        leaving[:count] = score[:count, 2] + move[:, 2]
        arriving = leaving[graph.before]
        choice = arriving.argmax(axis=1)
        enter = arriving[rows, choice] + graph.penalty
        kept = score[:count] + stay
        moved = np.empty_like(kept)
        moved[:, 0] = enter
        moved[:, 1:] = score[:count, :2] + move[:, :2]
        changed = moved > kept
        arrows[frame] = changed
        arrows[frame, :, 0] *= (choice + 1).astype(np.uint8)
        score[:count] = np.where(changed, moved, kept) + observed
    final = np.where(graph.exit, score[:count, 2] + move[:, 2], worst)
    node = int(final.argmax())
    if frames == 0 or final[node] <= worst / 2:
        return None
    return _trace(graph, arrows, densities, columns, node)


def _trace(
    graph: PhoneGraph, arrows: npt.NDArray[np.uint8], densities: Floats, columns: npt.NDArray[np.int64], node: int
) -> list[PhoneSpan]:
    spans: list[PhoneSpan] = []
    state, end, total = 2, len(arrows), 0.0
    for frame in range(len(arrows) - 1, -1, -1):
        total += float(densities[frame, columns[node, state]])
        arrow = arrows[frame, node, state]
        if frame > 0 and not arrow:
            continue
        if state > 0 and frame > 0:
            state -= 1
            continue
        spans.append(PhoneSpan(int(graph.word[node]), int(graph.phone[node]), frame, end, total))
        if frame > 0:
            node, state, end, total = int(graph.before[node, arrow - 1]), 2, frame, 0.0
    return spans[::-1]
