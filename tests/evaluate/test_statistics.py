import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lst.errors import LstError
from lst.evaluate.statistics import bootstrap_interval, paired_test, ranking_credit, ratio_interval


def test_interval_matches_the_normal_approximation() -> None:
    values = np.random.default_rng(0).integers(0, 2, 400).astype(float)
    interval = bootstrap_interval(values)
    expected = 1.96 * values.std() / np.sqrt(len(values))
    assert interval.mean == values.mean()
    assert interval.half_width == pytest.approx(expected, rel=0.06)
    assert interval.low < interval.mean < interval.high
    assert interval == bootstrap_interval(values)
    assert interval != bootstrap_interval(values, seed=1)


def test_coverage_is_about_ninety_five_percent() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(200):
        interval = bootstrap_interval(rng.random(100) < 0.7, resamples=500, seed=int(rng.integers(1 << 30)))
        inside += interval.low <= 0.7 <= interval.high
    assert 0.90 <= inside / 200 <= 0.99


def test_groups_widen_or_narrow_as_their_items_agree_or_oppose() -> None:
    rng = np.random.default_rng(2)
    coins = (rng.random(100) < 0.5).astype(float)
    names = [f"g{k // 2}" for k in range(200)]
    together = bootstrap_interval(np.repeat(coins, 2), groups=names)
    opposed = bootstrap_interval(np.stack([coins, 1 - coins], axis=1).ravel(), groups=names)
    plain = bootstrap_interval(np.repeat(coins, 2))
    assert together.half_width > 1.25 * plain.half_width
    assert opposed.half_width == 0  # every group sums to one


def test_group_order_decides_nothing_but_labels_do() -> None:
    values = [0.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    first = bootstrap_interval(values, groups=list("aabbcc"))
    assert first == bootstrap_interval(values, groups=list("zzyyxx"))


def test_a_pooled_rate_weighs_by_size() -> None:
    interval = ratio_interval([1, 30], [100, 100])
    assert interval.mean == 31 / 200
    assert (interval.low, interval.high) == (0.01, 0.30)  # resampled groups, not pooled ones
    errors = np.random.default_rng(0).binomial(50, 0.1, 200)
    assert ratio_interval(errors, np.full(200, 50)).mean == pytest.approx(bootstrap_interval(errors / 50).mean)
    assert ratio_interval(errors, np.full(200, 50)).low == pytest.approx(bootstrap_interval(errors / 50).low)
    with pytest.raises(LstError, match="positive size"):
        ratio_interval([1.0], [0.0])


def test_nothing_or_nonsense_is_refused() -> None:
    with pytest.raises(LstError, match="no item"):
        bootstrap_interval([])
    with pytest.raises(LstError, match="finite"):
        bootstrap_interval([0.0, float("nan")])
    with pytest.raises(LstError, match="same items"):
        paired_test([1.0], [1.0, 0.0])
    with pytest.raises(LstError, match="group labels"):
        bootstrap_interval([1.0, 0.0], groups=["a"])


def test_paired_test_sees_a_small_consistent_difference_that_intervals_miss() -> None:
    rng = np.random.default_rng(3)
    difficulty = rng.normal(0, 1, 200)
    a, b = difficulty + 0.1 + rng.normal(0, 0.05, 200), difficulty + rng.normal(0, 0.05, 200)
    test = paired_test(a, b)
    assert test.p_value < 0.001
    assert test.low > 0
    assert test.wins > 150
    assert test.n == 200
    wide = bootstrap_interval(a)
    assert wide.low < b.mean() < wide.high


def test_paired_test_of_equals_is_not_significant() -> None:
    a = np.random.default_rng(4).random(50)
    test = paired_test(a, a)
    assert (test.difference, test.p_value, test.ties) == (0.0, 1.0, 50)
    rng = np.random.default_rng(5)
    small = sum(paired_test(rng.random(30), rng.random(30), resamples=400).p_value < 0.05 for _ in range(100))
    assert small <= 12


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(-3, 3), min_size=2, max_size=2), min_size=1, max_size=20))
def test_credits_of_two_choices_add_up_to_one(scores: list[list[int]]) -> None:
    left = ranking_credit(scores, [0] * len(scores))
    right = ranking_credit(scores, [1] * len(scores))
    assert np.allclose(left + right, 1)
    assert set(np.unique(np.concatenate([left, right]))) <= {0.0, 0.5, 1.0}


def test_ties_share_the_credit() -> None:
    table = [[1.0, 1.0, 0.0, 1.0], [2.0, 1.0, -np.inf, -np.inf], [-1e6, -1e6 - 1e-5, -1e7, -1e7]]
    assert ranking_credit(table, [1, 0, 1]).tolist() == pytest.approx([1 / 3, 1.0, 0.5])
