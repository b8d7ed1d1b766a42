"""MFCC-39 against torchaudio's."""

import numpy as np
import pytest
import torch
import torchaudio

from lst.units.mfcc import MfccEncoder, cepstra, deltas
from tests.units.tiny import speechlike


def reference(samples: np.ndarray) -> np.ndarray:
    """(T, 39) at 100 Hz, by torchaudio, as HuBERT's own script does it but for the centred windows."""
    static = torchaudio.compliance.kaldi.mfcc(
        torch.from_numpy(samples)[None], sample_frequency=16000, use_energy=False, snip_edges=False
    ).T
    first = torchaudio.functional.compute_deltas(static)
    return torch.cat([static, first, torchaudio.functional.compute_deltas(first)]).T.numpy()


def test_equals_torchaudio() -> None:
    samples = speechlike(640 * 40)
    expected = reference(samples)
    static = cepstra(samples, len(expected))
    np.testing.assert_allclose(static, expected[:, :13], atol=2e-3)
    first = deltas(static)
    np.testing.assert_allclose(np.concatenate([static, first, deltas(first)], axis=1), expected, atol=2e-3)
    features = MfccEncoder().features(samples)
    assert features.shape == (40, 39)
    np.testing.assert_allclose(features, expected.reshape(40, 4, 39).mean(axis=1), atol=2e-3)


@pytest.mark.parametrize("samples", [1, 2, 159, 160, 399, 640, 641, 1281])
def test_short_audio(samples: int) -> None:
    features = MfccEncoder().features(speechlike(samples))
    assert features.shape == (-(-samples // 640), 39)
    assert np.isfinite(features).all()


def test_a_frame_sees_its_surroundings_only() -> None:
    audio = speechlike(640 * 30)
    changed = audio.copy()
    changed[640 * 20 :] = speechlike(640 * 10, seed=9) + 0.01 * np.random.default_rng(0).standard_normal(640 * 10)
    before, after = MfccEncoder().features(audio), MfccEncoder().features(changed)
    same = np.abs(before - after).max(axis=1) == 0
    assert same[:18].all()
    assert not same[20:].any()
