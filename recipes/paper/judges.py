"""How a claim of the paper is judged: the rules, fixed by what the paper says, not by what the runs gave.

    reproduced       the difference goes as the paper says, and is sure (below)
    not reproduced   it goes the other way, and is sure
    not decidable    neither is sure, or there are fewer than three seeds
    not run          there is no run that says anything about it

Losses are sure if a paired t-test over seeds has p < 0.05. Scores are sure if a bootstrap over seeds and items has
p < 0.05 after Holm's correction over the scores of one table, and every seed has the same sign. "No worse" means: the
95% interval lies above -3 points; with all of it below zero, and not above -3, the claim is not reproduced.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evidence import Difference, accuracy, of_losses, of_scores
from runs import LABELS, Found, scores_of

from lst.manifest import Manifest

REPRODUCED, NOT_REPRODUCED, UNDECIDED, NOT_RUN = "reproduced", "not reproduced", "not decidable", "not run"
SURE = 0.05
MARGIN = 0.03
"""What "no worse" allows, in accuracy: the sets were made as large as differences of three points need."""


@dataclass(frozen=True)
class Finding:
    """What the runs say of a claim, before the claims of its table are corrected for their number.

    `word`: the verdict, where no test is left to do; else `p` decides, and `sign`: 1 as the paper says, -1 against it.
    `holm`: the p-value is one of several of the table.
    """

    numbers: str
    word: str | None = None
    sign: int = 0
    p: float | None = None
    holm: bool = False


Judge = Callable[[Found], Finding]


def verdict(finding: Finding, p: float | None) -> str:
    """The word for a finding whose p-value, corrected, is `p`."""
    if finding.word is not None:
        return finding.word
    if p is None or p >= SURE or finding.sign == 0:
        return UNDECIDED
    return REPRODUCED if finding.sign > 0 else NOT_REPRODUCED


def lower_loss(loss: str, better: str, worse: str, tier: str = "", *, only: bool = False) -> Judge:
    """The arm `better` ends with a lower held-out loss; `only`: the first look cannot stand in for the tier."""

    def judge(found: Found) -> Finding:
        used = tier if only else _tier(found, better, worse, tier)
        pairs = [pair for pair in found.pairs(better, worse, used) if all(loss in run.losses for run in pair)]
        sides = [{run.seed: run.losses[loss] for run in side} for side in zip(*pairs, strict=True)]
        difference = of_losses(*sides) if sides else None
        if difference is None:
            return Finding(_absent(found, (better, worse), tier), NOT_RUN)
        numbers = f"{LABELS[loss]}: {better} {difference.a:.3f}, {worse} {difference.b:.3f}{_budget(used, tier)}; "
        numbers += _difference(difference, 1, 3)
        if difference.p is None:
            return Finding(f"{numbers}; {_seeds(len(pairs))}", UNDECIDED)
        return Finding(numbers, sign=_sign(-difference.mean), p=difference.p)

    return judge


def higher_score(benchmark: str, mode: str, better: str, worse: str, tier: str = "") -> Judge:
    """The arm `better` scores higher than `worse`."""

    def judge(found: Found) -> Finding:
        made = _scores(found, benchmark, mode, better, worse, tier)
        if isinstance(made, Finding):
            return made
        difference, numbers = made
        if difference.p is None:
            return Finding(f"{numbers}; {_seeds(len(difference.by_seed))}", UNDECIDED)
        if not difference.agrees:
            return Finding(f"{numbers}; the seeds disagree", UNDECIDED, p=difference.p, holm=True)
        return Finding(numbers, sign=_sign(difference.mean), p=difference.p, holm=True)

    return judge


def no_worse_score(benchmark: str, mode: str, arm: str, than: str, tier: str = "") -> Judge:
    """The arm scores at most `MARGIN` below the other, which has to be better than chance for that to mean anything."""

    def judge(found: Found) -> Finding:
        made = _scores(found, benchmark, mode, arm, than, tier)
        if isinstance(made, Finding):
            return made
        difference, numbers = made
        if difference.low is None or difference.high is None:
            return Finding(f"{numbers}; {_seeds(len(difference.by_seed))}", UNDECIDED)
        used = _tier(found, arm, than, tier)
        results = [run.scores[benchmark] for run in found.arm(than, used) if benchmark in run.scores]
        if not above_chance(results, mode):
            return Finding(f"{numbers}; {than} is not above chance, so being no worse says nothing", UNDECIDED)
        if difference.low > -MARGIN:
            return Finding(numbers, REPRODUCED)
        return Finding(numbers, NOT_REPRODUCED if difference.high < 0 else UNDECIDED)

    return judge


def above_chance(results: Sequence[Manifest], mode: str) -> bool:
    """Whether all of the interval over items, of their credit averaged over seeds, is above chance."""
    level = accuracy(results, mode)
    return level is not None and level[1] > scores_of(results[0])[mode]["chance"]


def _scores(found: Found, benchmark: str, mode: str, a: str, b: str, tier: str) -> tuple[Difference, str] | Finding:
    """The difference by the headline and the numbers to print; or that there is none."""
    used = _tier(found, a, b, tier)
    pairs = [pair for pair in found.pairs(a, b, used) if all(benchmark in run.scores for run in pair)]
    if not pairs:
        return Finding(_absent(found, (a, b), tier), NOT_RUN)
    sides = [{run.seed: run.scores[benchmark] for run in side} for side in zip(*pairs, strict=True)]
    parts = {name: of_scores(sides[0], sides[1], mode, name) for name in ("headline", "pmi_mean")}
    headline = parts["headline"]
    if headline is None:
        return Finding(f"no {mode} on {benchmark}", NOT_RUN)
    texts = []
    for name, difference in parts.items():
        if difference is not None:
            label = "by PMI: " if name == "pmi_mean" else ""
            text = f"{label}{a} {100 * difference.a:.1f}%, {b} {100 * difference.b:.1f}%; "
            texts.append(text + _difference(difference, 100, 1))
    if not any(above_chance(list(side.values()), mode) for side in sides):
        texts[0] += " (neither is above chance)"
    return headline, "; ".join(texts) + _budget(used, tier)


def _difference(difference: Difference, scale: float, digits: int) -> str:
    """`-10.000 ± 0.210 [-10.522, -9.478], by seed -9.8, -10.0, -10.2, p = 0.00015`."""

    def number(value: float) -> str:
        return f"{scale * value:+.{digits}f}"

    text = f"difference {number(difference.mean)}"
    if difference.std is not None:
        text += f" ± {scale * difference.std:.{digits}f}"
    if difference.low is not None and difference.high is not None:
        text += f" [{number(difference.low)}, {number(difference.high)}]"
    if len(difference.by_seed) > 1:
        text += ", by seed " + ", ".join(number(value) for value in difference.by_seed.values())
    return text if difference.p is None else f"{text}, p = {difference.p:.2g}"


def _tier(found: Found, a: str, b: str, wanted: str) -> str:
    """The tier in which the arms are compared: the wanted one, else the first look, if both are there."""
    tiers = [tier for tier in (wanted, "first") if wanted != "data" and found.pairs(a, b, tier)]
    return tiers[0] if tiers else wanted


def _budget(used: str, wanted: str) -> str:
    return " (at a tenth of the budget)" if used != wanted else ""


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _absent(found: Found, arms: Sequence[str], tier: str) -> str:
    there = [name for name in arms if found.arm(name, tier)]
    if len(there) < len(arms):
        return f"no {', '.join(name for name in arms if name not in there)}"
    return "not scored" if found.pairs(arms[0], arms[1], tier) else "no seed that both have"
