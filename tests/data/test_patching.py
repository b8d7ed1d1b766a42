"""The algebra of patches: lengths are positive and sum to the span, boundaries are where they should be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lst.data.patching import (
    PatchingConfig,
    aligned_boundaries,
    patch_span,
    perturb_boundaries,
    piece_cuts,
    static_patches,
)
from tests.data.synthetic import utterance

seeds = st.integers(0, 10_000)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


@given(n=st.integers(0, 200), p=st.integers(1, 12))
def test_static_patches_count_to_p(n: int, p: int) -> None:
    lengths, closed = static_patches(n, p)
    assert lengths.sum() == n
    assert (lengths[:-1] == p).all()
    assert (lengths > 0).all()
    np.testing.assert_array_equal(closed, lengths == p)  # a short patch must not be seen by its own last unit


def test_the_papers_example() -> None:
    boundaries = aligned_boundaries(8, ints(2, 6), ints(5, 8), silence="separate")
    assert boundaries.tolist() == [0, 2, 5, 6, 8]
    merged = aligned_boundaries(9, ints(2, 6), ints(5, 8), silence="merged")
    assert merged.tolist() == [0, 6, 9]  # silence before the first word joins it, the rest joins the word before


@given(seed=seeds, words=st.integers(0, 20), silence=st.sampled_from(["separate", "merged"]), perturb=st.integers(0, 2))
def test_aligned_patches_tile_the_span(seed: int, words: int, silence: str, perturb: int) -> None:
    rng = np.random.default_rng(seed)
    row = utterance(rng, words)
    config = PatchingConfig(mode="aligned", silence=silence, perturb=perturb)
    lengths, closed = patch_span(
        "aligned", len(row.units), config, starts=row.starts, ends=row.ends, uniforms=rng.random
    )
    assert lengths.sum() == len(row.units)
    assert (lengths > 0).all()
    assert not closed.any()
    gaps = int((row.starts[1:] > row.ends[:-1]).sum()) + int(words > 0 and row.starts[0] > 0)
    gaps += int(words > 0 and row.ends[-1] < len(row.units))
    assert len(lengths) == (max(1, words) if silence == "merged" else max(1, words + gaps))


@given(seed=seeds, words=st.integers(1, 20))
def test_separate_patches_are_the_words(seed: int, words: int) -> None:
    row = utterance(np.random.default_rng(seed), words)
    boundaries = aligned_boundaries(len(row.units), row.starts, row.ends, silence="separate").tolist()
    assert set(row.starts.tolist()) | set(row.ends.tolist()) <= set(boundaries)


@given(seed=seeds, words=st.integers(1, 20))
def test_pieces_divide_words(seed: int, words: int) -> None:
    row = utterance(np.random.default_rng(seed), words)
    weights = np.random.default_rng(seed).integers(0, 9, len(row.tokens)).astype(float)
    counts = row.token_ends - row.token_starts
    cuts = piece_cuts(row.starts, row.ends, counts, weights)
    for word in range(words):
        inside = cuts[row.token_starts[word] : row.token_ends[word]]
        assert (np.diff(inside) >= 0).all()
        assert row.starts[word] <= inside[0]
        assert inside[-1] == row.ends[word]
    with_cuts = aligned_boundaries(len(row.units), row.starts, row.ends, silence="separate", cuts=cuts)
    without = aligned_boundaries(len(row.units), row.starts, row.ends, silence="separate")
    assert set(without.tolist()) <= set(with_cuts.tolist())


def test_pieces_share_frames_by_their_characters() -> None:
    cuts = piece_cuts(ints(2, 10), ints(6, 20), ints(2, 3), np.array([1.0, 1, 2, 2, 6]))
    assert cuts.tolist() == [4, 6, 12, 14, 20]
    assert piece_cuts(ints(), ints(), ints(), np.empty(0)).tolist() == []


@given(seed=seeds, words=st.integers(1, 20), frames=st.integers(1, 3))
def test_perturbed_boundaries_keep_their_number_and_order(seed: int, words: int, frames: int) -> None:
    row = utterance(np.random.default_rng(seed), words)
    boundaries = aligned_boundaries(len(row.units), row.starts, row.ends, silence="separate")
    moved = perturb_boundaries(boundaries, frames, np.random.default_rng(seed).random)
    assert len(moved) == len(boundaries)
    assert (np.diff(moved) > 0).all()
    assert (moved[0], moved[-1]) == (boundaries[0], boundaries[-1])


def test_perturbation_moves_by_one_or_two_frames() -> None:
    boundaries = np.arange(0, 1000, 10, dtype=np.int32)
    moved = perturb_boundaries(boundaries, 2, np.random.default_rng(0).random) - boundaries
    assert set(moved.tolist()) == {-2, -1, 0, 1, 2}


def test_curriculum_follows_its_formula() -> None:
    config = PatchingConfig(mode="curriculum")
    progress = [0.0, 0.2, 1 / 3, 0.5, 0.6, 2 / 3, 1.0]
    expected = [1.0, 1.0, 1.0, 0.5, 0.2, 0.0, 0.0]
    assert [config.aligned_probability(u) for u in progress] == pytest.approx(expected)
    step = PatchingConfig(mode="curriculum", tau1=0.5, tau2=0.5)
    assert [step.aligned_probability(u) for u in (0.49, 0.5)] == [1.0, 0.0]


def test_probability_of_the_other_modes() -> None:
    modes = {"none": 0.0, "static": 0.0, "bpe": 0.0, "aligned": 1.0, "mixed": 0.5}
    assert {mode: PatchingConfig(mode=mode).aligned_probability(0.9) for mode in modes} == modes
    assert PatchingConfig(mode="mixed").kind(0.5, 0.49) == "aligned"
    assert PatchingConfig(mode="mixed").kind(0.5, 0.5) == "static"
    assert PatchingConfig(mode="none").kind(0.0, 0.0) == "none"


@pytest.mark.parametrize("wrong", [{"tau1": 0.7, "tau2": 0.6}, {"size": 0}, {"mode": "dynamic"}, {"pitch": 4}])
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        PatchingConfig(**wrong)
