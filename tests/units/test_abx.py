"""ABX on sequences whose answer is known, and the warping against its definition."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lst.units.abx import Triphone, abx_error, angles, draw_triples, triphones, unequal, warped_distance

PHONES = {"p": 1, "t": 2, "k": 3}


def corpus(code: dict[tuple[str, str], int], speakers: str = "ab", each: int = 3) -> tuple[list[Triphone], dict]:
    """Utterances "s PHONE z" of 2, 3 and 4 frames a phone; the middle one is `code[phone, speaker]`."""
    items, units = [], {}
    for speaker in speakers:
        for phone in PHONES:
            for number in range(each):
                name, length = f"{speaker}-{phone}-{number}", 2 + number
                seconds = 0.04 * length
                spans = [(seconds * k, seconds * (k + 1), label) for k, label in enumerate(("s", phone, "z"))]
                items += triphones(spans, 3 * length, utterance=name, speaker=speaker)
                units[name] = np.repeat([100, code[phone, speaker], 200], length)
    return items, units


def errors(code: dict[tuple[str, str], int]) -> list[float]:
    """Within and across speakers."""
    items, units = corpus(code)
    drawn = [draw_triples(items, across=across, most=500, seed=0) for across in (False, True)]
    return [abx_error(triples, units, unequal) for triples in drawn]


def test_units_of_phones_make_no_errors() -> None:
    assert errors({(phone, speaker): PHONES[phone] for phone in PHONES for speaker in "ab"}) == [0, 0]


def test_units_that_tell_nothing_are_right_half_of_the_time() -> None:
    # Equal everywhere but in length, which warping does away with: every triple is a tie.
    assert errors({(phone, speaker): 7 for phone in PHONES for speaker in "ab"}) == [0.5, 0.5]


def test_units_of_the_speaker_are_of_no_use_across() -> None:
    code = {(phone, speaker): 10 * (speaker == "b") + PHONES[phone] for phone in PHONES for speaker in "ab"}
    assert errors(code)[0] == 0
    # X shares no middle unit with A or B. Only the length of the path through the middle is left, which says nothing.
    assert errors(code)[1] == pytest.approx(0.5, abs=0.1)


def test_the_wrong_way_round_is_always_wrong() -> None:
    """b's phones are coded as another phone of a's: p as t, t as k, k as p. Pairs so crossed are wrong, others ties."""
    turned = {"p": "t", "t": "k", "k": "p"}
    code = {(p, "a"): PHONES[p] for p in PHONES} | {(p, "b"): PHONES[turned[p]] for p in PHONES}
    items, units = corpus(code, each=1)
    triples = draw_triples(items, across=True, most=500, seed=0)
    crossed = [t for t in triples if (t.a.speaker == "a") == (turned[t.a.phone] == t.b.phone)]
    assert abx_error([t for t in crossed if t.a.speaker == "a"], units, unequal) == 1
    assert abx_error([t for t in crossed if t.a.speaker == "b"], units, unequal) == 1


def test_frequent_phones_do_not_count_more() -> None:
    code = {("p", "a"): 1, ("t", "a"): 1, ("k", "a"): 3}
    items, units = corpus(code, speakers="a")
    triples = draw_triples(items, across=False, most=500, seed=0)
    assert abx_error(triples, units, unequal) == pytest.approx((2 * 0.5 + 4 * 0) / 6)
    confused = [t for t in triples if {t.a.phone, t.b.phone} == {"p", "t"}]
    assert abx_error([*triples, *confused * 9], units, unequal) == pytest.approx(1 / 6)


def test_triples_keep_their_promises() -> None:
    items, _ = corpus({(phone, speaker): 1 for phone in PHONES for speaker in "ab"})
    stranger = Triphone("m", "z", "p", "a", "elsewhere", 0, 3)
    for across in (False, True):
        triples = draw_triples([*items, stranger], across=across, most=70, seed=1)
        assert len(triples) <= 70
        for t in triples:
            assert t.a.phone == t.x.phone != t.b.phone
            assert {(i.before, i.after) for i in (t.a, t.b, t.x)} == {("s", "z")}
            assert t.a != t.x
            assert t.a.speaker == t.b.speaker
            assert (t.x.speaker != t.a.speaker) == across
        assert len({(t.a.phone, t.b.phone, t.a.speaker) for t in triples}) == 12
        assert triples == draw_triples([stranger, *reversed(items)], across=across, most=70, seed=1)
        assert triples != draw_triples([*items, stranger], across=across, most=70, seed=2)
        few = draw_triples(items, across=across, most=5, seed=1)
        assert len(few) == 5
        assert len({(t.a.phone, t.b.phone, t.a.speaker) for t in few}) == 5
    alone = [item for item in items if item.speaker == "a"]
    assert draw_triples(alone, across=True, most=70, seed=0) == []
    assert draw_triples([], across=False, most=70, seed=0) == []


def test_phones_with_a_pause_between_have_no_surroundings() -> None:
    spans = [(0.0, 0.1, "a"), (0.1, 0.2, "b"), (0.2, 0.3, "c"), (0.5, 0.6, "d"), (0.6, 0.7, "e"), (0.7, 0.71, "f")]
    found = triphones(spans, 100, utterance="u", speaker="s")
    assert [(item.before, item.phone, item.after) for item in found] == [("a", "b", "c"), ("d", "e", "f")]
    # Frame k has its middle at 0.04 k + 0.02: 0 to 7 lie in [0, 0.3), 12 to 17 in [0.5, 0.71).
    assert [(item.start, item.stop) for item in found] == [(0, 7), (12, 18)]
    assert triphones(spans, 15, utterance="u", speaker="s")[1].stop == 15
    assert triphones(spans, 12, utterance="u", speaker="s")[1:] == []


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_warping_is_the_cheapest_path(one: list[int], other: list[int]) -> None:
    @cache
    def cheapest(i: int, j: int) -> float:
        here = float(one[i] != other[j])
        if i == j == 0:
            return here
        ways = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
        return here + min(cheapest(*way) for way in ways if min(way) >= 0)

    companion = np.arange(7)  # another row of the batch, of other lengths
    found = warped_distance([np.array(one), companion], [np.array(other), companion], unequal)
    cost = cheapest(len(one) - 1, len(other) - 1)
    steps = [cost / length for length in range(max(len(one), len(other)), len(one) + len(other))]
    assert any(found[0] == pytest.approx(step) for step in steps)
    assert found[1] == 0


def test_what_is_only_slower_is_not_further() -> None:
    fast = np.random.default_rng(0).standard_normal((4, 5))
    (distance,) = warped_distance([fast], [np.repeat(fast, 3, axis=0)], angles)
    assert distance == pytest.approx(0, abs=1e-7)


def test_angles() -> None:
    right, up = np.array([[[1.0, 0.0]]]), np.array([[[0.0, 5.0], [-2.0, 0.0], [3.0, 3.0]]])
    assert angles(right, up)[0, 0] == pytest.approx([0.5, 1.0, 0.25])
