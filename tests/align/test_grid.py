"""Times onto the 25 Hz grid: monotone, at least a frame each, near where they belong."""

from hypothesis import given
from hypothesis import strategies as st

from lst.align.base import TimedWord, nearest_frame, on_grid
from lst.text.normalise import NormalisedWord

DURATIONS = st.lists(st.tuples(st.floats(0, 1.5), st.floats(0, 1.5)), min_size=1, max_size=30)


def place(durations: list[tuple[float, float]]) -> tuple[list[NormalisedWord], list[TimedWord], float]:
    """Words with a pause before each."""
    now, times = 0.0, []
    for pause, length in durations:
        times.append(TimedWord(now + pause, now + pause + length, 0.5))
        now += pause + length
    return [NormalisedWord(f"w{i}\n—", 0, 1, ["w"]) for i in range(len(times))], times, now


@given(DURATIONS, st.integers(-3, 10))
def test_words_do_not_overlap_and_none_is_lost(durations: list[tuple[float, float]], spare: int) -> None:
    words, times, total = place(durations)
    frames = max(0, round(total * 25) + spare)
    placed = on_grid(words, times, frames)
    if len(words) > frames:
        assert placed is None
        return
    assert placed is not None
    assert [word.text for word in placed] == [" ".join(word.original.split()) for word in words]
    edges = [edge for word in placed for edge in (word.start, word.end)]
    assert edges == sorted(edges)
    assert all(word.end > word.start for word in placed)
    assert placed[0].start >= 0
    assert placed[-1].end <= frames


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 1)), min_size=1, max_size=20))
def test_words_of_ordinary_length_are_rounded_to_the_nearest_frame(durations: list[tuple[float, float]]) -> None:
    words, times, total = place(durations)
    for word, time in zip(on_grid(words, times, int(total * 25) + 2) or [], times, strict=True):
        assert word.start == nearest_frame(time.start_s)
        assert word.end == nearest_frame(time.end_s)
