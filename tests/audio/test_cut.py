"""Cutting at pauses."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lst.audio.cut import Activity, cut_at_pauses, detect_speech, energy_decisions, load_silero
from lst.errors import LstError
from tests.audio.conftest import voice, write


def talk(*parts: float) -> np.ndarray:
    """Speech and quiet noise in turn, in seconds, beginning with speech."""
    rng = np.random.default_rng(1)
    pieces = []
    for index, seconds in enumerate(parts):
        quiet = 0.0005 * rng.standard_normal((round(seconds * 16_000), 1))
        pieces.append(quiet if index % 2 else voice(seconds, seed=index))
    return np.concatenate(pieces).astype(np.float32)


def test_energy_finds_pauses(tmp_path):
    path = write(tmp_path / "a.wav", talk(3.0, 2.0, 4.0, 0.2, 1.0, 3.0, 2.0))
    activity = detect_speech(path, "energy")
    segments = cut_at_pauses(activity, max_s=20.0, pad_s=0.1)
    expected = [(0.0, 3.1), (4.9, 10.3), (13.1, 15.2)]
    assert activity.duration_s == pytest.approx(15.2)
    np.testing.assert_allclose(segments, expected, atol=0.06)


def test_the_level_may_change_along_the_way(tmp_path):
    loud, soft = talk(*[2.0, 1.5] * 20), talk(*[2.0, 1.5] * 20) * 0.03
    activity = detect_speech(write(tmp_path / "a.wav", np.concatenate([loud, soft])), "energy")
    segments = cut_at_pauses(activity, max_s=20.0, pad_s=0.1)
    assert len(segments) == 40


def test_silence_and_unbroken_speech():
    silence = np.full(500, -80.0, dtype=np.float32)
    assert not energy_decisions(silence, 0.01).any()
    assert energy_decisions(silence + 60, 0.01).all()


def test_long_speech_is_cut_at_its_quietest_place():
    loudness = np.full(1000, -20.0, dtype=np.float32)
    loudness[350:370] = -30.0
    activity = Activity(np.ones(1000, dtype=bool), loudness, 0.01, 10.0)
    segments = cut_at_pauses(activity, max_s=4.0, pad_s=0.1)
    assert segments[0][0] == 0.0
    assert 3.5 <= segments[0][1] <= 3.7
    assert segments[-1][1] == 10.0


@settings(max_examples=60, deadline=None)
@given(
    speech=st.lists(st.booleans(), min_size=1, max_size=400),
    stretch=st.integers(1, 20),
    max_s=st.floats(0.3, 5.0),
    pad_s=st.floats(0.0, 0.5),
)
def test_segments_are_ordered_bounded_and_cover_the_speech(speech, stretch, max_s, pad_s):
    decisions = np.repeat(np.array(speech), stretch)
    loudness = np.random.default_rng(len(speech)).normal(-30, 5, len(decisions)).astype(np.float32)
    duration = len(decisions) * 0.01 - 0.003
    segments = cut_at_pauses(Activity(decisions, loudness, 0.01, duration), max_s=max_s, pad_s=pad_s)
    ends = 0.0
    covered = np.zeros(len(decisions), dtype=bool)
    for start, end in segments:
        assert start >= ends - 1e-9
        assert 0 < end - start <= max_s + 1e-9
        ends = end
        covered[round(start * 100) : round(end * 100 + 0.5)] = True
    assert ends <= duration + 1e-9
    edges = np.flatnonzero(np.diff(np.concatenate([[0], decisions.astype(int), [0]]))).reshape(-1, 2)
    for start, end in edges:
        if end - start >= 10:  # shorter sounds may be dropped
            assert covered[start:end].all()


def test_silero_needs_its_extra(monkeypatch):
    load_silero.cache_clear()
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    with pytest.raises(LstError, match="silero-vad") as caught:
        load_silero()
    assert "vad" in caught.value.hint
    load_silero.cache_clear()


@pytest.mark.slow
def test_silero_runs_where_it_is_installed(tmp_path):
    pytest.importorskip("silero_vad")
    path = write(tmp_path / "a.wav", np.zeros((40_000, 1), dtype=np.float32))
    activity = detect_speech(path, "silero")
    assert len(activity.speech) == -(-40_000 // 512)
    assert not activity.speech.any()
    again = detect_speech(path, "silero")
    np.testing.assert_array_equal(activity.speech, again.speech)
