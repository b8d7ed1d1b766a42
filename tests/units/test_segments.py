"""Training segments: a function of seed and step, every frame once per epoch, targets that stay with their sound."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lst.units.segments import Corpus, Segments, add_noise, band_gains, band_places, plain_segments


def corpus(lengths: list[int]) -> Corpus:
    """Audio and target of frame i both are i, its phone is i modulo 7."""
    frames = sum(lengths)
    audio = np.repeat(np.arange(frames, dtype=np.int16)[:, None], 640, axis=1)
    starts = np.cumsum([0, *lengths[:-1]])
    targets = np.arange(frames, dtype=np.int16)
    return Corpus(audio, targets, starts.astype(np.int64), np.array(lengths, np.int64), targets % 7)


def test_a_step_depends_on_seed_and_step_alone() -> None:
    some = corpus([300, 500, 420])
    first, second = Segments(some, 400, 8, seed=1), Segments(some, 400, 8, seed=1)
    for step in (5, 0, 2):
        one, two = first[step], second[step]
        for name in ("samples", "targets", "phones", "band_gain", "band_places"):
            assert np.array_equal(getattr(one, name), getattr(two, name))
    assert not np.array_equal(Segments(some, 400, 8, seed=2)[0].targets, first[0].targets)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(4, 900), min_size=2, max_size=6))
def test_every_frame_is_met_once_an_epoch(lengths: list[int]) -> None:
    some = corpus(lengths)
    segments = Segments(some, 400, 8, seed=0, disturb=False)
    steps = [segments[step] for step in range(-(-some.frames // 400))]
    assert all(np.array_equal(batch.phones, batch.targets % 7) for batch in steps)
    met = np.concatenate([batch.targets.reshape(-1) for batch in steps])
    assert np.array_equal(np.sort(met[: some.frames]), np.arange(some.frames))


def test_targets_stay_with_their_sound_at_any_speed() -> None:
    some = corpus([3000])
    segments = Segments(some, 400, 8, seed=3)
    changed = 0
    for step in range(7):
        position = step * 400
        for row in range(4):
            random = np.random.default_rng([9, step, row])
            samples, targets = segments._row(position + row, 100, random)
            middles = np.round(samples.reshape(100, 640)[:, 320] * 32768)
            assert np.abs(middles - targets).max() <= 1  # interpolation between neighbours
            changed += abs(targets[-1] - targets[0] - 99) > 2
    assert 4 < changed < 20


def test_seven_in_ten_rows_get_noise_below_their_level() -> None:
    clean = np.random.default_rng(0).standard_normal((200, 3200)).astype(np.float32) * 0.1
    noisy = clean.copy()
    add_noise(noisy, np.random.default_rng(1))
    added = np.sqrt(((noisy - clean) ** 2).mean(axis=1)) / np.sqrt((clean**2).mean(axis=1))
    touched = added > 0
    assert 120 < touched.sum() < 160
    # A stretch of brown noise may be louder or softer than all of it.
    assert 10 ** (-35 / 20) < np.median(added[touched]) < 10 ** (-5 / 20)
    assert np.quantile(added[touched], 0.9) < 10 ** (-5 / 20) * 1.5


def test_band_gains_are_moderate_or_leave_out_one_stretch_or_what_is_above_a_limit() -> None:
    decibels = 10 * np.log10(band_gains(400, 80, np.random.default_rng(0)))
    missing = decibels <= -50
    assert 0.3 < missing.any(axis=1).mean() < 0.5
    assert np.abs(decibels[~missing]).max() < 20
    changes = np.abs(np.diff(missing.astype(int), axis=1)).sum(axis=1)
    assert changes.max() <= 3  # a stretch within, and the end
    assert 0.08 < missing[:, -1].mean() < 0.25


def test_band_places_shift_high_bands_most_and_often_none() -> None:
    places = band_places(400, 80, np.random.default_rng(0))
    shifts = places - np.arange(80)
    assert 0.3 < (np.abs(shifts).max(axis=1) < 1e-3).mean() < 0.5
    assert places.min() >= 0
    assert places.max() <= 79
    assert (np.diff(places, axis=1) >= 0).all()
    # 15% at 1 kHz is about 3 bands of 80; below 300 Hz less than one and a half.
    assert 1.5 < np.abs(shifts[:, 28]).max() < 4
    assert np.abs(shifts[:, 8]).max() < 1.6


@pytest.mark.parametrize(("count", "expected"), [(2, 2), (100, 6)])
def test_validation_takes_stretches_in_order(count: int, expected: int) -> None:
    found = [targets for _, targets, _ in plain_segments(corpus([100, 200, 350]), 100, count)]
    assert np.array_equal(np.concatenate(found), np.arange(expected * 100))
