"""How sure a difference between two arms is. Everything is paired: seed with seed, item with item.

Arms with the same seed read the corpus in the same order, so most of what moves one arm's loss from seed to seed moves
the other's too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lst.evaluate.choices import independent
from lst.evaluate.compare import Part, read_parts
from lst.evaluate.statistics import bootstrap_interval, paired_test
from lst.manifest import Manifest, load_manifest

RESAMPLES = 10_000
CONFIDENCE = 0.95
SEEDS = 3
"""With fewer no difference between arms is called sure, however many items there are."""

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """Arm A minus arm B. `by_seed`: of each seed that both have; `a`, `b`: the arms' means over these seeds.

    `std`: of `by_seed`, None for one seed. `low`, `high`, `p`: interval and two-sided p-value, None where there are
    too few seeds. `p_by_seed`: of a paired test over the items within each seed (empty for losses).
    """

    a: float
    b: float
    by_seed: dict[int, float]
    std: float | None
    low: float | None
    high: float | None
    p: float | None
    p_by_seed: dict[int, float]

    @property
    def mean(self) -> float:
        """Over seeds."""
        return float(np.mean(list(self.by_seed.values())))

    @property
    def agrees(self) -> bool:
        """Every seed has the sign of the mean."""
        return len({np.sign(value) for value in self.by_seed.values()}) == 1


def of_losses(a: Mapping[int, float], b: Mapping[int, float]) -> Difference | None:
    """Losses by seed: the paired t-test over seeds. None if no seed is in both."""
    seeds = sorted(set(a) & set(b))
    if not seeds:
        return None
    delta = np.array([a[seed] - b[seed] for seed in seeds])
    std = float(delta.std(ddof=1)) if len(delta) > 1 else None
    low = high = p = None
    if len(delta) >= SEEDS and std is not None:
        low, high, p = t_interval(float(delta.mean()), std / len(delta) ** 0.5, len(delta) - 1)
    return Difference(
        a=float(np.mean([a[seed] for seed in seeds])),
        b=float(np.mean([b[seed] for seed in seeds])),
        by_seed=dict(zip(seeds, delta.tolist(), strict=True)),
        std=std,
        low=low,
        high=high,
        p=p,
        p_by_seed={},
    )


def t_interval(mean: float, error: float, freedom: int) -> tuple[float, float, float]:
    """95% interval and two-sided p-value against zero of an estimate with this standard error."""
    if error == 0:
        return mean, mean, 1.0 if mean == 0 else 0.0
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    return mean - reach, mean + reach, float(2 * stats.t.sf(abs(mean) / error, freedom))


def of_scores(
    a: Mapping[int, Manifest], b: Mapping[int, Manifest], mode: str, variant: str = "headline"
) -> Difference | None:
    """Results of one benchmark by seed. None if no seed is in both, or none of them has the mode or the variant.

    Interval and p-value are of a bootstrap over seeds and over groups of items at once, see `crossed_means`.
    """
    seeds = sorted(set(a) & set(b))
    sides = [[_part(side[seed], mode) for seed in seeds] for side in (a, b)]
    parts = [part for side in sides for part in side if part is not None]
    if not seeds or len(parts) < 2 * len(seeds):
        return None
    name = parts[0].headline if variant == "headline" else variant
    if not all(name in part.earned for part in parts):
        return None
    order = sorted(set(parts[0].ids).intersection(*(part.ids for part in parts[1:])))
    first, second = ([_credits(part, name, order) for part in side if part is not None] for side in sides)
    groups = first[0][1]
    earned = [np.stack([values for values, _ in side]) for side in (first, second)]
    delta = earned[0] - earned[1]
    low = high = p = None
    if len(seeds) >= SEEDS:
        means = crossed_means(delta, groups)
        low, high = (float(value) for value in np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]))
        p = _two_sided(means)
    tests = [paired_test(one, other, groups=groups) for one, other in zip(*earned, strict=True)]
    return Difference(
        a=float(earned[0].mean()),
        b=float(earned[1].mean()),
        by_seed=dict(zip(seeds, delta.mean(axis=1).tolist(), strict=True)),
        std=float(delta.mean(axis=1).std(ddof=1)) if len(seeds) > 1 else None,
        low=low,
        high=high,
        p=p,
        p_by_seed={seed: test.p_value for seed, test in zip(seeds, tests, strict=True)},
    )


def accuracy(results: Sequence[Manifest], mode: str, variant: str = "headline") -> tuple[float, float, float] | None:
    """Mean over models and items, with the interval over items (of their credit averaged over the models)."""
    parts = [part for manifest in results if (part := _part(manifest, mode)) is not None]
    if not parts:
        return None
    name = parts[0].headline if variant == "headline" else variant
    if not all(name in part.earned for part in parts):
        return None
    order = sorted(set(parts[0].ids).intersection(*(part.ids for part in parts[1:])))
    credit = [_credits(part, name, order) for part in parts]
    found = bootstrap_interval(np.mean([values for values, _ in credit], axis=0), groups=credit[0][1])
    return found.mean, found.low, found.high


def crossed_means(delta: Float, groups: Sequence[str]) -> Float:
    """Means of `delta` (seeds, items) when seeds and groups of items are both drawn anew, with replacement.

    Owen's pigeonhole bootstrap (2007): it does not understate the part of the variance that items and seeds have
    together. With three seeds that of the seeds alone is understated by a third, which is why the verdicts also ask
    that all seeds agree.
    """
    index = {label: number for number, label in enumerate(dict.fromkeys(groups))}
    which = np.array([index[label] for label in groups])
    sums = np.stack([np.bincount(which, weights=row) for row in delta])
    # Groups that are alike in all seeds are drawn together: how often is multinomial, and much less to draw.
    kinds, counts = np.unique(np.vstack((sums, np.bincount(which))), axis=1, return_counts=True)
    rng = np.random.default_rng(0)
    drawn = np.concatenate([_redrawn(rng, kinds, counts, 1000) for _ in range(RESAMPLES // 1000)])
    seeds = rng.multinomial(len(delta), np.full(len(delta), 1 / len(delta)), size=RESAMPLES)
    means: Float = (drawn * seeds).sum(axis=1) / len(delta)
    return means


def _redrawn(rng: np.random.Generator, kinds: Float, counts: NDArray[np.int64], times: int) -> Float:
    """Means of each seed over redrawn groups, (times, seeds). `kinds` (seeds + 1, kinds of groups): sums, then size."""
    drawn = rng.multinomial(counts.sum(), counts / counts.sum(), size=times)
    means: Float = (drawn @ kinds[:-1].T) / (drawn @ kinds[-1])[:, None]
    return means


def of_rates(a: tuple[Float, Float], b: tuple[Float, Float]) -> tuple[float, float, float, float]:
    """Pooled error rates (errors and sizes per utterance, the same utterances) of A minus B: value, low, high, p."""
    rng = np.random.default_rng(0)
    count = len(a[0])
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    means = (drawn @ a[0]) / (drawn @ a[1]) - (drawn @ b[0]) / (drawn @ b[1])
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    value = a[0].sum() / a[1].sum() - b[0].sum() / b[1].sum()
    return float(value), float(low), float(high), _two_sided(means)


def _two_sided(means: Float) -> float:
    """A bootstrap's p-value against zero; never below what so many resamples can show."""
    below, above = (means <= 0).sum(), (means >= 0).sum()
    return float(min(1.0, 2 * (min(below, above) + 1) / (len(means) + 1)))


@dataclass(frozen=True)
class Line:
    """A least-squares line: `error` is the slope's standard error, `residual` the sum of squares around the line."""

    slope: float
    intercept: float
    error: float
    residual: float
    x: Float

    def at(self, x: float) -> float:
        return self.intercept + self.slope * x


def fit_line(x: Float, y: Float) -> Line:
    """Needs three points that do not lie above each other."""
    spread = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / spread)
    intercept = float(y.mean() - slope * x.mean())
    residual = float(((y - intercept - slope * x) ** 2).sum())
    return Line(slope, intercept, (residual / (len(x) - 2) / spread) ** 0.5, residual, x)


def between_lines(a: Line, b: Line) -> dict[str, tuple[float, float, float, float]]:
    """A minus B in the middle of both ("height") and of their slopes ("slope"): value, low, high, p.

    The noise around both lines is taken to be the same, and pooled.
    """
    freedom = len(a.x) + len(b.x) - 4
    noise = (a.residual + b.residual) / freedom
    middle = float(np.concatenate((a.x, b.x)).mean())
    heights = slopes = 0.0
    for line in (a, b):
        spread = float(((line.x - line.x.mean()) ** 2).sum())
        heights += noise * (1 / len(line.x) + (middle - line.x.mean()) ** 2 / spread)
        slopes += noise / spread
    values = {"height": (a.at(middle) - b.at(middle), heights), "slope": (a.slope - b.slope, slopes)}
    return {name: (value, *t_interval(value, var**0.5, freedom)) for name, (value, var) in values.items()}


def _part(manifest: Manifest, mode: str) -> Part | None:
    return next((part for (_, name), part in _parts(manifest.path).items() if name == mode), None)


@cache
def _parts(path: Path) -> dict[tuple[str, str], Part]:
    """A result is compared with many others."""
    return read_parts(load_manifest(path, "lst.eval"))


def _credits(part: Part, variant: str, order: Sequence[str]) -> tuple[Float, list[str]]:
    """What the items earned, in this order, with their groups; one value a group where readings count once."""
    place = {name: index for index, name in enumerate(part.ids)}
    chosen = [place[name] for name in order]
    return independent(part.kind, [part.groups[index] for index in chosen], part.earned[variant][chosen])
