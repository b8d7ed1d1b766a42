"""The phone graph and its search, against a slow and obvious one, on a made-up acoustic model."""

from functools import cache
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lst.align.sphinx_model import AcousticModel
from lst.align.viterbi import ANYTHING, GAP, PhoneGraph, build_graph, viterbi

PHONES = ("SIL", "A", "B", "C")
VARIANT = st.one_of(st.lists(st.integers(1, 3), min_size=1, max_size=3), st.just([ANYTHING]))
WORDS = st.lists(st.lists(VARIANT, min_size=1, max_size=2), min_size=1, max_size=3)


@cache
def model() -> AcousticModel:
    """Four phones; some triphones of A have states of their own."""
    generator = np.random.default_rng(0)
    triphones = {(0, 1, 0, 2): 4, (1, 1, 2, 0): 5, (3, 1, 3, 2): 6, (1, 2, 1, 3): 7, (2, 1, 0, 0): 8, (2, 1, 2, 3): 9}
    states = np.arange(30, dtype=np.uint16).reshape(10, 3)
    transitions = np.full((4, 3, 4), -np.inf, np.float32)
    for phone in range(4):
        for state in range(3):
            stay = generator.uniform(0.2, 0.8)
            transitions[phone, state, state : state + 2] = np.log([stay, 1 - stay])
    return AcousticModel(PHONES, states, transitions, (np.arange(30),), triphones, frozenset([0]), (), ())


def slow_path(graph: PhoneGraph, densities: np.ndarray) -> list[tuple[int, int]] | None:
    """(node, state) of every frame on the best path, from the definition."""
    trans = model().transitions
    count = len(graph.word)

    @cache
    def best(frame: int, node: int, state: int) -> tuple[float, tuple[int, int] | None]:
        here = float(densities[frame, graph.senones[node, state]])
        move = trans[max(int(graph.phone[node]), 0)]
        if frame == 0:
            return (here + float(graph.penalty[node]) if state == 0 and graph.entry[node] else -np.inf), None
        options = [(best(frame - 1, node, state)[0] + float(move[state, state]), (node, state))]
        if state:
            options.append((best(frame - 1, node, state - 1)[0] + float(move[state - 1, state]), (node, state - 1)))
        else:
            options += [
                (
                    best(frame - 1, n, 2)[0]
                    + float(trans[max(int(graph.phone[n]), 0)][2, 3])
                    + float(graph.penalty[node]),
                    (n, 2),
                )
                for n in map(int, graph.before[node])
                if n < count
            ]
        score, origin = max(options)
        return here + score, origin

    last = len(densities) - 1
    ends = [
        (best(last, n, 2)[0] + float(trans[max(int(graph.phone[n]), 0)][2, 3]), n)
        for n in range(count)
        if graph.exit[n]
    ]
    score, node = max(ends)
    if score == -np.inf:
        return None
    path: list[tuple[int, int]] = []
    at: tuple[int, int] | None = (node, 2)
    for frame in range(last, -1, -1):
        assert at is not None
        path.append(at)
        at = best(frame, *at)[1]
    return path[::-1]


@given(WORDS, st.integers(1, 40), st.booleans(), st.integers(0, 1000))
def test_best_path(words: list[list[list[int]]], frames: int, open_end: bool, seed: int) -> None:
    densities = np.random.default_rng(seed).normal(0, 3, (frames, 31)).astype(np.float32)
    graph = build_graph(model(), words, open_end=open_end)
    path = viterbi(model(), graph, densities, graph.senones)
    expected = slow_path(graph, densities)
    if path is None or expected is None:
        assert path is expected
        return
    cuts = [0, *(t for t in range(1, frames) if expected[t] != expected[t - 1] and expected[t][1] == 0), frames]
    assert [(span.start, span.end) for span in path] == list(pairwise(cuts))
    assert [span.phone for span in path] == [int(graph.phone[expected[start][0]]) for start in cuts[:-1]]
    for span in path:
        columns = [graph.senones[expected[frame]] for frame in range(span.start, span.end)]
        assert abs(span.log_density - sum(densities[range(span.start, span.end), columns])) < 1e-3
    assert [span.start for span in path] == [0, *(span.end for span in path[:-1])]
    assert path[-1].end == frames
    assert all(span.end - span.start >= 3 for span in path)
    spoken = [(span.word, span.phone) for span in path if span.word != GAP]
    said = [word for index, (word, _) in enumerate(spoken) if index == 0 or spoken[index - 1][0] != word]
    assert said == list(range(len(said)))
    assert open_end or len(said) == len(words)
    for word in said:
        assert [phone for index, phone in spoken if index == word] in words[word]


def test_too_short_speech_has_no_path() -> None:
    graph = build_graph(model(), [[[1, 2, 3]]])
    assert viterbi(model(), graph, np.zeros((8, 30), np.float32), graph.senones) is None
    assert viterbi(model(), graph, np.zeros((9, 30), np.float32), graph.senones) is not None
    assert viterbi(model(), graph, np.zeros((0, 30), np.float32), graph.senones) is None


def test_contexts_select_triphones() -> None:
    # A between silence and B at a word's beginning has states 12-14.
    graph = build_graph(model(), [[[1, 2]]])
    first = [row for row, (word, place) in enumerate(zip(graph.word, graph.place)) if word == 0 and place == 0]
    assert [graph.senones[row].tolist() for row in first] == [[12, 13, 14]]
