"""The ridge vocoder: length, clicks, determinism, locality, streaming, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lst.errors import LstError
from lst.vocoder.base import finish, limit
from lst.vocoder.source_filter import Frames, SourceFilter
from lst.vocoder.spectrum import Spectrum
from tests.vocoder.toys import UNITS, ridge_vocoder

UNIT_LISTS = st.lists(st.integers(0, UNITS - 1), min_size=1, max_size=60)


@settings(max_examples=20, deadline=None)
@given(units=UNIT_LISTS)
def test_any_units_give_a_clean_waveform_of_their_length(units: list[int]) -> None:
    samples = ridge_vocoder().synthesize(units)
    assert samples.dtype == np.float32
    assert samples.shape == (640 * len(units),)
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() < 1
    assert abs(samples[0]) < 1e-3
    assert abs(samples[-1]) < 1e-3
    np.testing.assert_array_equal(samples, ridge_vocoder().synthesize(np.array(units, np.uint16)))


@settings(max_examples=10, deadline=None)
@given(units=UNIT_LISTS)
def test_the_stream_is_the_whole_in_pieces(units: list[int]) -> None:
    whole = ridge_vocoder().synthesize(units)
    pieces = list(ridge_vocoder().stream(iter(units)))
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-5)


def test_the_stream_looks_ahead_at_most_200_ms() -> None:
    taken = 0

    def source():
        nonlocal taken
        for unit in [3, 5, 7] * 20:
            taken += 1
            yield unit

    made = 0
    for piece in ridge_vocoder().stream(source()):
        made += len(piece)
        if taken < 60:
            assert taken * 640 - made <= 0.2 * 16000 + 640  # the unit itself, and what lies ahead of it
    assert made == 60 * 640


def test_sound_depends_on_near_units_only() -> None:
    units = [1, 2, 3, 4, 5, 6, 7, 8] * 6
    changed = [*units[:40], 11, *units[41:]]
    a, b = ridge_vocoder().synthesize(units), ridge_vocoder().synthesize(changed)
    # Frames of 3 units before, and the analysis window; what comes later may shift with the phase of the pulses.
    first = (40 - 3) * 640 - 240 - 160
    np.testing.assert_allclose(a[:first], b[:first], atol=1e-6)
    assert not np.allclose(a[40 * 640 : 41 * 640], b[40 * 640 : 41 * 640])


def test_long_input_is_done_in_blocks_without_clicks() -> None:
    """No jump between neighbouring samples is larger at block borders than elsewhere."""
    units = [4] * 1100
    samples = ridge_vocoder().synthesize(units)
    jumps = np.abs(np.diff(samples))
    elsewhere = np.quantile(jumps, 0.9999)
    for border in range(250, 1100, 250):
        near = jumps[border * 640 - 700 : border * 640 + 700]
        assert near.max() <= 1.5 * elsewhere + 1e-3


@pytest.mark.parametrize("waveform", ["source-filter", "griffin-lim"])
def test_maximum_jump(waveform: str) -> None:
    """Steady units: the largest step between samples is that of speech-like sound, and the ends are quiet."""
    samples = ridge_vocoder(waveform).synthesize([0, 0, 0, 2, 2, 2, 4, 4, 4, 4] * 5)
    assert np.abs(np.diff(samples)).max() < 1.0
    assert np.abs(np.diff(samples[:40])).max() < 0.3 * max(1e-3, np.abs(np.diff(samples)).max()) + 1e-3
    assert np.abs(samples[-8:]).max() < 0.02


def test_griffin_lim_has_the_length_and_repeats() -> None:
    units = [1, 5, 9, 9, 9, 2] * 5
    samples = ridge_vocoder("griffin-lim").synthesize(units)
    assert samples.shape == (640 * len(units),)
    np.testing.assert_array_equal(samples, ridge_vocoder("griffin-lim").synthesize(units))
    np.testing.assert_array_equal(samples, np.concatenate(list(ridge_vocoder("griffin-lim").stream(units))))


def test_griffin_lim_joins_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    import lst.vocoder.griffin_lim as module

    log_mel = np.full((200, 80), -3, np.float32)
    whole = module.griffin_lim(log_mel, Spectrum())
    monkeypatch.setattr(module, "BLOCK", 64)
    cut = module.griffin_lim(log_mel, Spectrum())
    assert cut.shape == whole.shape
    level = [np.sqrt((cut[k : k + 1600] ** 2).mean()) for k in range(1600, 28_000, 1600)]
    assert max(level) < 2.5 * min(level)


def test_the_synthesiser_follows_the_spectrum_and_the_pitch() -> None:
    """Analysing the output finds the F0 and, within a few dB, the mel levels that were asked for."""
    from lst.vocoder.pitch import estimate_pitch

    spectrum = Spectrum()
    count = 200
    slope = np.linspace(2, -6, 80, dtype=np.float32)
    frames = Frames(np.tile(slope, (count, 1)), np.full(count, np.log(180), np.float32), np.ones(count, np.float32))
    synthesiser = SourceFilter(spectrum)
    samples = np.concatenate([synthesiser.push(frames), synthesiser.flush()])
    assert samples.shape == (count * 160,)
    pitch = estimate_pitch(samples, 160)[10:-10]
    assert (pitch > 0).mean() > 0.95
    assert abs(np.median(pitch) - 180) < 2
    # Narrow bands lie on or between harmonics; over ten of them that averages out.
    error = spectrum.log_mel(samples)[20:-20].mean(0) - slope
    for start in (20, 30, 40, 50):
        assert abs(np.log(np.exp(error[start : start + 10]).mean())) < 0.5


@pytest.mark.parametrize("log_f0", [-100.0, 0.0, 20.0, 500.0])
def test_the_synthesiser_bears_any_pitch(log_f0: float) -> None:
    count = 40
    frames = Frames(
        np.full((count, 80), -3, np.float32), np.full(count, log_f0, np.float32), np.ones(count, np.float32)
    )
    synthesiser = SourceFilter(Spectrum())
    samples = np.concatenate([synthesiser.push(frames), synthesiser.flush()])
    assert samples.shape == (count * 160,)
    assert np.isfinite(samples).all()


def test_the_synthesiser_takes_frames_in_any_portions() -> None:
    frames = ridge_vocoder().frames(np.array([1, 2, 3, 4, 5, 6, 7] * 4))
    whole = SourceFilter(Spectrum())
    expected = np.concatenate([whole.push(frames), whole.flush()])
    for portion in (1, 3, 50):
        one = SourceFilter(Spectrum())
        pieces = [one.push(frames[start : start + portion]) for start in range(0, len(frames), portion)]
        pieces += [one.push(frames[:0]), one.flush()]
        np.testing.assert_allclose(np.concatenate(pieces), expected, atol=1e-5)
    nothing = SourceFilter(Spectrum())
    assert nothing.flush().shape == (0,)


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ([], "no units"),
        ([3, UNITS], f"Unit {UNITS} at place 1 is outside 0 to {UNITS - 1}"),
        ([-1], "outside"),
        ([[1, 2]], "plain list"),
        ([0.5], "whole numbers"),
    ],
)
def test_wrong_units_are_named(units: list, message: str) -> None:
    with pytest.raises(LstError, match=message):
        ridge_vocoder().synthesize(units)


def test_wrong_units_are_named_in_a_stream_too() -> None:
    with pytest.raises(LstError, match="no units"):
        list(ridge_vocoder().stream([]))
    with pytest.raises(LstError, match="outside"):
        list(ridge_vocoder().stream([1, 2, UNITS]))


@given(
    values=st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=50),
)
def test_the_limiter_keeps_small_and_bounds_large_samples(values: list[float]) -> None:
    samples = np.array(values, np.float32)
    limited = limit(samples)
    assert np.abs(limited).max() < 1
    small = np.abs(samples) <= 0.8
    np.testing.assert_array_equal(limited[small], samples[small])
    order = np.argsort(samples)
    assert (np.diff(limited[order]) >= 0).all()
    assert finish(samples).shape == samples.shape
