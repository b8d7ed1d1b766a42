"""Discriminants, projected codebooks, and clusters of features and phones together."""

from pathlib import Path

import numpy as np
import pytest

from lst.errors import LstError
from lst.units.codebooks import fit
from lst.units.lda import discriminant_directions
from lst.units.quality import contingency, phone_purity
from lst.units.quantizers import load_quantizer
from lst.units.targets import fit_targets, load_targets

PHONES = ["AA", "B", "SIL"]


def speech(seed: int = 0, count: int = 12) -> tuple[list[tuple[int, np.ndarray]], dict[int, list[str]]]:
    """Utterances of 6 dimensions: the phone in two of them, the speaker, far louder, in another."""
    random = np.random.default_rng(seed)
    features, phones = [], {}
    for index in range(count):
        labels = random.integers(0, 3, 80)
        frames = random.standard_normal((80, 6))
        frames[:, 1] += 2.0 * labels
        frames[:, 4] += 3.0 * (labels == 1)
        frames[:, 2] += 40.0 * (index % 4)
        features.append((index, frames.astype(np.float32)))
        phones[index] = [PHONES[label] for label in labels]
    return features, phones


def test_discriminants_find_the_phone_and_not_the_speaker() -> None:
    features, phones = speech()
    frames = np.concatenate([frames for _, frames in features])
    frames = (frames - frames.mean(axis=0)) / frames.std(axis=0)
    labels = np.concatenate([phones[index] for index, _ in features])
    directions = discriminant_directions(frames, labels, 9)
    assert directions.shape == (6, 2)  # one less than phones
    size = np.abs(directions)
    assert size[[1, 4]].max(axis=0).min() > 5 * size[[0, 2, 3, 5]].max()
    projected = frames @ directions
    within = np.mean([projected[labels == phone].var(axis=0) for phone in PHONES], axis=0)
    assert within == pytest.approx(1.0, abs=0.15)


def test_one_phone_is_not_enough_for_discriminants() -> None:
    with pytest.raises(LstError, match="Only 1 of 1 phones"):
        discriminant_directions(np.zeros((100, 4)), np.array(["AA"] * 100), 3)


def test_a_codebook_with_discriminants_is_kept_whole(tmp_path: Path) -> None:
    features, phones = speech()
    fitted = fit(iter(features), 12, 0, 5000, source="test", phones=phones, dimensions=2)
    fitted.codebook.save(tmp_path / "c.safetensors")
    loaded = load_quantizer(tmp_path / "c.safetensors")
    assert (loaded.dim, loaded.num_units) == (6, 12)
    new, truth = speech(seed=1)
    frames = np.concatenate([frames for _, frames in new])
    codes = loaded.codes(frames)
    expected = ((frames - fitted.codebook.mean) / fitted.codebook.std) @ fitted.codebook.projection
    distances = ((expected[:, None] - fitted.codebook.centroids[None]) ** 2).sum(axis=2)
    assert np.array_equal(codes, distances.argmin(axis=1))
    labels = np.concatenate([truth[index] for index, _ in new])
    without = fit(iter(features), 12, 0, 5000, source="test").codebook.quantizer().codes(frames)
    assert phone_purity(contingency(labels, codes)) > phone_purity(contingency(labels, without)) + 0.05


def test_a_projection_of_another_width_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    good = {"centroids": np.ones((3, 2), np.float32), "projection": np.ones((5, 3), np.float32)}
    save_file(good, tmp_path / "c.safetensors")
    with pytest.raises(LstError, match="`projection` has shape"):
        load_quantizer(tmp_path / "c.safetensors")
    good |= {"projection": np.ones((5, 2), np.float32), "mean": np.ones(4, np.float32)}
    save_file(good, tmp_path / "c.safetensors")
    with pytest.raises(LstError, match="features have 5 dimensions"):
        load_quantizer(tmp_path / "c.safetensors")


def test_known_phones_make_pure_targets(tmp_path: Path) -> None:
    features, phones = speech()
    half = {index: labels for index, labels in phones.items() if index % 2}
    clusters = fit_targets(iter(features), 12, 0, 5000, source="test", phones=half, dimensions=2, phone_weight=6.0)
    clusters.save(tmp_path / "t.safetensors")
    clusters = load_targets(tmp_path / "t.safetensors")
    labels = np.concatenate([phones[index] for index, _ in features])
    pure = np.concatenate([clusters.codes(frames, phones[index]) for index, frames in features])
    plain = np.concatenate([clusters.codes(frames) for _, frames in features])
    assert phone_purity(contingency(labels, pure)) > 0.98
    assert 0.6 < phone_purity(contingency(labels, plain)) < 0.98
    # The nearest in the joint space, by its definition.
    book = clusters.codebook
    frames = features[0][1]
    distances = ((book.project(frames)[:, None] - book.centroids[None]) ** 2).sum(axis=2)
    costs = np.stack([clusters.costs[clusters.phones.index(phone)] for phone in phones[0]])
    assert np.array_equal(clusters.codes(frames, phones[0]), (distances + costs).argmin(axis=1))
    # Fewer clusters of one phone: its frames go to the ones that stay, others are as before.
    phone = phones[0][0]
    own = np.flatnonzero(clusters.cluster_phones() == clusters.phones.index(phone))
    assert len(own) > 2
    fewer = clusters.joined(phone, 2)
    again = np.concatenate([fewer.codes(frames, phones[index]) for index, frames in features])
    assert len(np.unique(again[labels == phone])) == 2
    assert np.array_equal(again[labels != phone], pure[labels != phone])
    assert np.array_equal(fewer.cluster_phones(), clusters.cluster_phones())
    # A phone that was never seen costs nothing.
    assert np.array_equal(clusters.codes(frames, ["XX"] * 80), clusters.codes(frames))
