"""Markup is escaped unless it was made here, and charts survive whatever numbers they get."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lst.report.html import Html, escape, number, percent, seconds, table, tag
from lst.report.sound import player
from lst.report.svg import MAX_POINTS, Interval, Part, Series, histograms, intervals, line_chart, stacked_bars, ticks


def test_children_and_attributes_are_escaped() -> None:
    made = tag("p", "<b>", tag("i", "x"), None, 3, title='"<', hidden=True, id=None, class_="a", data_x=1.5)
    assert made == '<p title="&quot;&lt;" hidden class="a" data-x="1.5">&lt;b&gt;<i>x</i>3</p>'
    assert tag("br") == "<br>"
    assert tag("p", [Html("<hr>"), ["<"]]) == "<p><hr>&lt;</p>"


@given(st.text())
def test_any_text_can_be_written(text: str) -> None:
    made = escape(text)
    assert not set(made) & set("<>\"'")
    assert isinstance(made.encode("utf-8"), bytes)


def test_what_text_loses() -> None:
    assert escape("a\x00\ud800\u202eb\nc") == "ab\nc"
    assert escape("می\u200cخواهم") == "می\u200cخواهم"  # a joiner belongs to the word


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (number(12345), "12,345"),
        (number(2.0), "2"),
        (number(0.123456), "0.1235"),
        (number(math.nan), "not finite"),
        (number("x"), "x"),
        (number(True), "True"),
        (seconds(0.5), "500 ms"),
        (seconds(12.34), "12.3 s"),
        (seconds(245), "4 min 05 s"),
        (seconds(7800), "2 h 10 min"),
        (percent(0.7712), "77.1%"),
    ],
)
def test_numbers_for_people(made: str, expected: str) -> None:
    assert made == expected


def test_a_table_without_a_head_has_none() -> None:
    assert "thead" not in table(["", ""], [["a", "b"]])
    assert 'class="number"' in table(["", "n"], [["a", "b"]])


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 8))
def test_ticks_are_round_and_inside(low: float, width: float, count: int) -> None:
    high = low + width
    found = ticks(low, high, count)
    slack = 1e-6 * max(abs(low), abs(high), 1)
    assert all(low - slack <= value <= high + slack for value in found)
    assert len(found) <= count + 2


def test_ticks_of_nothing() -> None:
    assert ticks(3.0, 3.0) == [3.0]


@given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(allow_nan=True, allow_infinity=True)), max_size=30))
def test_a_line_chart_takes_any_numbers(points: list[tuple[int, float]]) -> None:
    finite = [(x, y) for x, y in points if math.isfinite(y) and abs(y) < 1e300]
    made = line_chart([Series("a", finite, 1, dots=True)], title="t", x_label="x")
    assert (made is None) == (not finite)
    if made is not None:
        assert "nan" not in made
        assert "inf" not in made


def test_a_long_line_is_thinned_and_a_lonely_point_is_drawn() -> None:
    long = [(float(x), math.sin(x)) for x in range(10 * MAX_POINTS)]
    made = line_chart([Series("a", long, 1), Series("b", [(5.0, math.nan), (6.0, 1.0)], 2)], title="t", x_label="x")
    assert made is not None
    assert made.count(",") < 3 * MAX_POINTS
    assert made.count("<circle") == 1
    assert line_chart([Series("a", [(1.0, math.inf)], 1)], title="t", x_label="x") is None


def test_bars_histograms_and_intervals_of_nothing() -> None:
    assert "nan" not in stacked_bars([("a", [Part("x", 0, 1), Part("y", 0, 2)]), ("b", [])], title="t")
    assert "nan" not in histograms([("a", [0.0] * 30, 1)], title="t", x_label="x", last="30+")
    assert "120.0%" in intervals([Interval("a", 1.2, -1, 2, 0.5)], title="t", x_label="x")


def test_sound_is_small_the_same_each_time_and_survives_odd_samples() -> None:
    samples = np.sin(np.arange(16000) / 10).astype(np.float32) * 2
    made = player(samples)
    assert made == player(samples)
    assert len(made) < 16000
    assert "audio/mpeg" in player(np.zeros(0, dtype=np.float32))
