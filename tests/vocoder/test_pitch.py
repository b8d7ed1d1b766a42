"""F0 and voicing against signals whose pitch is known."""

import numpy as np
import pytest

from lst.vocoder.pitch import estimate_pitch, interpolate_pitch

RATE = 16_000


def glide(base: float, seconds: float, noise: float = 0.01) -> tuple[np.ndarray, np.ndarray]:
    """A harmonic tone whose F0 swings by 10% three times a second, and that F0 at the frames' centres."""
    time = np.arange(int(seconds * RATE)) / RATE
    f0 = base * (1 + 0.1 * np.sin(2 * np.pi * 3 * time))
    phase = np.cumsum(f0) / RATE
    tone = sum(np.cos(2 * np.pi * harmonic * phase) / harmonic for harmonic in range(1, 15))
    samples = 0.1 * tone + noise * np.random.default_rng(0).standard_normal(len(time))
    return samples.astype(np.float32), f0[80::160]


@pytest.mark.parametrize("base", [90.0, 150.0, 220.0, 380.0])
def test_it_follows_a_glide(base: float) -> None:
    samples, true = glide(base, 1.0)
    found = estimate_pitch(samples, 160)
    assert found.shape == (100,)
    voiced = found > 0
    assert voiced.mean() > 0.95
    cents = 1200 * np.abs(np.log2(found[voiced] / true[voiced]))
    assert np.median(cents) < 5
    assert (cents > 50).mean() < 0.02


def test_noise_and_silence_are_unvoiced() -> None:
    noise = np.random.default_rng(0).standard_normal(32_000).astype(np.float32)
    assert not estimate_pitch(noise, 160).any()
    assert not estimate_pitch(np.zeros(16_000, np.float32), 160).any()
    assert estimate_pitch(np.zeros(0, np.float32), 160).shape == (0,)
    assert estimate_pitch(np.zeros(160, np.float32), 160).shape == (1,)


def test_voicing_begins_and_ends_with_the_tone() -> None:
    tone, _ = glide(180.0, 0.5, noise=0.0)
    samples = np.concatenate([np.zeros(8000, np.float32), tone, np.zeros(8000, np.float32)])
    voiced = np.flatnonzero(estimate_pitch(samples, 160) > 0)
    assert abs(voiced[0] - 50) <= 2
    assert abs(voiced[-1] - 99) <= 2


def test_long_signals_are_worked_on_in_blocks() -> None:
    samples, _ = glide(200.0, 30.0)
    whole = estimate_pitch(samples, 160)
    assert len(whole) == 3000  # more than one block
    assert (whole > 0).mean() > 0.95


def test_interpolation_fills_the_gaps() -> None:
    pitch = np.array([0, 100, 0, 0, 200, 0], np.float32)
    logs = interpolate_pitch(pitch, 160.0)
    np.testing.assert_allclose(np.exp(logs[[0, 1, 4, 5]]), [100, 100, 200, 200], rtol=1e-5)
    assert np.all(np.diff(logs) >= 0)
    np.testing.assert_allclose(interpolate_pitch(np.zeros(3, np.float32), 160.0), np.log(160), rtol=1e-6)
