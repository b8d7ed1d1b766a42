"""The analysis grid: frames, reconstruction, mel bands."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lst.vocoder.spectrum import Spectrum, overlap_add


@settings(max_examples=20, deadline=None)
@given(
    units=st.integers(1, 12),
    spectrum=st.sampled_from([Spectrum(), Spectrum(hop=80, window=320, n_fft=512, n_mels=40), Spectrum(hop=320)]),
)
def test_the_inverse_restores_the_signal(units: int, spectrum: Spectrum) -> None:
    samples = np.random.default_rng(units).standard_normal(640 * units).astype(np.float32)
    frames = spectrum.stft(samples)
    assert frames.shape == (units * spectrum.frames_per_unit, spectrum.n_fft // 2 + 1)
    restored = spectrum.istft(frames)
    assert restored.shape == samples.shape
    # The outermost samples are seen by the edge of one window only.
    inner = slice(spectrum.hop, -spectrum.hop)
    np.testing.assert_allclose(restored[inner], samples[inner], atol=2e-4)


def test_a_frame_depends_on_its_window_only() -> None:
    spectrum = Spectrum()
    samples = np.random.default_rng(0).standard_normal(640 * 10).astype(np.float32)
    changed = samples.copy()
    changed[20 * 160 + 80 + 320 :] = 0  # everything after the window of frame 20
    np.testing.assert_array_equal(spectrum.log_mel(samples)[:21], spectrum.log_mel(changed)[:21])
    assert not np.allclose(spectrum.log_mel(samples)[21], spectrum.log_mel(changed)[21])


def test_mel_bands_are_means_and_ordered() -> None:
    spectrum = Spectrum()
    weights = spectrum.mel_weights
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    assert (np.diff(weights.argmax(1)) >= 0).all()
    # A flat spectrum stays flat there and back.
    np.testing.assert_allclose(spectrum.mel_to_bins @ weights @ np.ones(513), 1, rtol=1e-5)


def test_a_tone_lands_in_its_band() -> None:
    spectrum = Spectrum()
    tone = np.sin(2 * np.pi * 1000 * np.arange(6400) / 16000).astype(np.float32)
    band = int(spectrum.log_mel(tone)[20].argmax())
    peak_hz = spectrum.mel_weights[band].argmax() * 16000 / 1024
    assert abs(peak_hz - 1000) < 40  # bands are 60 Hz apart there


@pytest.mark.parametrize("settings_", [{"hop": 150}, {"window": 200}, {"window": 2048}, {"window": 641}])
def test_impossible_grids_are_refused(settings_: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="hop must divide"):
        Spectrum(**settings_)


@given(frames=st.integers(1, 6), length=st.integers(1, 9), hop=st.integers(1, 4))
def test_overlap_add_is_the_sum(frames: int, length: int, hop: int) -> None:
    values = np.random.default_rng(0).standard_normal((frames, length))
    expected = np.zeros((frames - 1) * hop + length)
    for index, frame in enumerate(values):
        expected[index * hop : index * hop + length] += frame
    np.testing.assert_allclose(overlap_add(values, hop), expected)
