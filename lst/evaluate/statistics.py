"""How sure a number is: bootstrap intervals, and a paired test between two models on the same items.

Everything is seeded and pure numpy: the same scores give the same interval on every machine.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lst.errors import LstError

RESAMPLES = 10_000

MANY_VALUES = 64
"""Up to so many distinct values (accuracies have two or three) resampling counts them instead of drawing items."""

WIDE = 0.03
"""Half an interval's width above which a number says too little: the paper's differences are 1 to 6 points."""

FEW_ITEMS = 100
"""Below this even a narrow interval means little: a bootstrap cannot show what it has not seen."""

POWER_Z = 1.959964 + 0.841621
"""Normal quantiles of a two-sided test at 5% that finds a real difference four times out of five."""


@dataclass(frozen=True)
class Interval:
    """A mean with its interval: `low` <= `mean` <= `high` but for skewed samples; `n` values."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        """Half the interval's width: the ± of a table."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class PairedTest:
    """Is A better than B on the same items? `difference` = mean(A) - mean(B), with its bootstrap interval.

    `p_value`: two-sided, by random sign flips. `wins`, `losses`, `ties`: items on which A is above, below, level.
    """

    difference: float
    low: float
    high: float
    p_value: float
    wins: int
    losses: int
    ties: int
    n: int
    smallest: float
    """The difference that so many items would show four times out of five (at 5%): smaller ones are not excluded."""

    @property
    def note(self) -> str:
        """A warning if the items are too few to tell the two apart; empty if they are not."""
        if self.p_value <= 0.05 or self.smallest <= 0:
            return ""
        needed = self.n * (self.smallest / abs(self.difference)) ** 2 if self.difference else math.inf
        more = f"; one of {100 * abs(self.difference):.1f} needs about {needed:,.0f} items" if needed < 1e7 else ""
        return f"not decided: {self.n} items show a difference of {100 * self.smallest:.1f} points or more{more}"


@dataclass(frozen=True)
class Seeds:
    """One measurement of several runs that differ in their seed: `std` is the sample's (n - 1), None for one run."""

    mean: float
    std: float | None
    n: int


def over_seeds(values: ArrayLike) -> Seeds:
    """Mean and standard deviation over runs. Raises LstError for no values."""
    sample = _checked(values)
    return Seeds(float(sample.mean()), float(sample.std(ddof=1)) if len(sample) > 1 else None, len(sample))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979): the chance that any of those called different is not."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def size_note(low: float, high: float, n: int) -> str:
    """A warning if the interval is wider than the differences people look for (`WIDE`); empty if it is not."""
    half = (high - low) / 2
    if half <= WIDE:
        return f"only {n} independent items" if n < FEW_ITEMS else ""
    needed = n * (half / WIDE) ** 2
    return f"only {n} independent items: ±{100 * half:.1f} points; ±{100 * WIDE:.0f} needs about {needed:,.0f}"


def bootstrap_interval(
    values: ArrayLike,
    *,
    groups: Sequence[str] | None = None,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of the mean of `values` (n,).

    `groups` (n labels) resamples whole groups: items that depend on each other, such as the readings of one sentence by
    several voices, stay together. Raises LstError for no values, or values that are not finite.
    """
    sample = _checked(values)
    means = _resampled_means(sample, groups, resamples, seed)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(sample.mean()), float(low), float(high), len(sample))


def ratio_interval(
    errors: ArrayLike, sizes: ArrayLike, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of sum(errors) / sum(sizes), as of a pooled error rate, resampling the n groups.

    Raises LstError for no groups, sizes that are not positive, or values that are not finite.
    """
    above, below = _checked(errors), _checked(sizes)
    if len(above) != len(below) or below.min() <= 0:
        raise LstError("A rate needs a positive size for each count of errors.")
    tail = (1 - confidence) / 2
    low, high = np.quantile(_resampled_ratios(above, below, resamples, seed), [tail, 1 - tail])
    return Interval(float(above.sum() / below.sum()), float(low), float(high), len(above))


def paired_test(
    a: ArrayLike,
    b: ArrayLike,
    *,
    groups: Sequence[str] | None = None,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedTest:
    """Compare two models' scores of the same items, in the same order: `a`, `b` (n,).

    The p-value is that of a permutation test: under the null hypothesis which of the two scores came from which model
    is a coin flip per item (per group, with `groups`). Raises LstError if the lengths differ.
    """
    first, second = _checked(a), _checked(b)
    if len(first) != len(second):
        raise LstError(
            f"A paired test needs the same items on both sides, got {len(first)} and {len(second)}.",
            hint="Match them by id first.",
        )
    delta = first - second
    interval = bootstrap_interval(delta, groups=groups, confidence=confidence, resamples=resamples, seed=seed)
    sums = delta if groups is None else _group_sums(delta, groups)[0]
    observed = abs(sums.sum())
    # The observed labelling is one of the permutations: counting it keeps the p-value away from an impossible zero.
    extreme = 1 + int((np.abs(_flipped_sums(sums, resamples, seed + 1)) >= observed - 1e-12).sum())
    return PairedTest(
        difference=interval.mean,
        low=interval.low,
        high=interval.high,
        p_value=extreme / (resamples + 1),
        wins=int((delta > 0).sum()),
        losses=int((delta < 0).sum()),
        ties=int((delta == 0).sum()),
        n=len(delta),
        smallest=POWER_Z * _standard_error(delta, groups),
    )


def _standard_error(delta: NDArray[np.float64], groups: Sequence[str] | None) -> float:
    """Of the mean of `delta` (n,), whole groups being independent."""
    sums, sizes = (delta, np.ones(len(delta))) if groups is None else _group_sums(delta, groups)
    residual = sums - delta.mean() * sizes
    return float(np.sqrt((residual**2).sum()) / sizes.sum())


def ranking_credit(scores: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """What each item earns: 1 if the right choice scores highest alone, a share if it ties, else 0.

    `scores` (n, choices), `labels` (n,) the index of the right choice. k choices level at the top earn 1/k each, which
    is the 0.5 of a tie between two. Equal means equal up to rounding (1e-9, relative).
    """
    table = np.asarray(scores, dtype=np.float64)
    right = np.take_along_axis(table, np.asarray(labels, dtype=np.int64)[:, None], axis=1)[:, 0]
    best = table.max(axis=1)
    tolerance = 1e-9 * np.maximum(1.0, np.abs(best))
    level = (table >= (best - tolerance)[:, None]).sum(axis=1)
    return np.where(right >= best - tolerance, 1.0 / level, 0.0)


def _checked(values: ArrayLike) -> NDArray[np.float64]:
    sample = np.asarray(values, dtype=np.float64).ravel()
    if len(sample) == 0:
        raise LstError("There is nothing to average: no item was scored.")
    if not np.isfinite(sample).all():
        raise LstError("A score is not a finite number, so its mean means nothing.")
    return sample


def _group_sums(sample: NDArray[np.float64], groups: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and size of each group, in order of first appearance (so that the seed decides alone)."""
    if len(groups) != len(sample):
        raise LstError(f"{len(sample)} values but {len(groups)} group labels.")
    index = {label: number for number, label in enumerate(dict.fromkeys(groups))}
    which = np.array([index[label] for label in groups])
    sums: NDArray[np.float64] = np.bincount(which, weights=sample).astype(np.float64)
    return sums, np.bincount(which).astype(np.float64)


def _resampled_means(
    sample: NDArray[np.float64], groups: Sequence[str] | None, resamples: int, seed: int
) -> NDArray[np.float64]:
    sums, sizes = (sample, np.ones(len(sample))) if groups is None else _group_sums(sample, groups)
    return _resampled_ratios(sums, sizes, resamples, seed)


def _resampled_ratios(
    sums: NDArray[np.float64], sizes: NDArray[np.float64], resamples: int, seed: int
) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    distinct, counts = np.unique(np.stack((sums, sizes)), axis=1, return_counts=True)
    if len(counts) <= MANY_VALUES:
        # How often each distinct value is drawn is multinomial: the same distribution, for the cost of a few values.
        drawn = rng.multinomial(len(sums), counts / len(sums), size=resamples)
        ratios: NDArray[np.float64] = (drawn @ distinct[0]) / (drawn @ distinct[1])
        return ratios
    means = np.empty(resamples)
    # In blocks: 10,000 resamples of 10,000 items at once would be 800 MB.
    block = max(1, 2_000_000 // len(sums))
    for start in range(0, resamples, block):
        chosen = rng.integers(0, len(sums), size=(min(block, resamples - start), len(sums)))
        means[start : start + len(chosen)] = sums[chosen].sum(axis=1) / sizes[chosen].sum(axis=1)
    return means


def _flipped_sums(sums: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Sums of `sums` (n,) with random signs, (resamples,)."""
    rng = np.random.default_rng(seed)
    sizes, counts = np.unique(np.abs(sums[sums != 0]), return_counts=True)
    if len(counts) <= MANY_VALUES:
        kept = rng.binomial(counts, 0.5, size=(resamples, len(counts)))
        flipped: NDArray[np.float64] = (2 * kept - counts) @ sizes
        return flipped
    found = np.empty(resamples)
    for start in range(0, resamples, 1000):
        count = min(1000, resamples - start)
        found[start : start + count] = (rng.integers(0, 2, size=(count, len(sums))) * 2 - 1) @ sums
    return found
