"""The paper's claims, one line each, with a verdict from the runs that are there."""

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lst.evaluate.compare import compare

if TYPE_CHECKING:
    from results import Found, Run

REPRODUCED, NOT_REPRODUCED, UNDECIDED, NOT_RUN = "reproduced", "not reproduced", "not decidable", "not run"
SURE = 0.05
LABELS = {"speech": "S→S bits/s", "text": "T→T bits/token"}


@dataclass(frozen=True)
class Verdict:
    """What became of a claim, and the numbers."""

    word: str
    numbers: str


def claims_table(found: "Found") -> str:
    """A line per claim of the paper."""
    lines = ["| paper | claim | verdict | numbers |", "| --- | --- | --- | --- |"]
    for where, claim, judge in CLAIMS:
        verdict = judge(found)
        lines.append(f"| {where} | {claim} | **{verdict.word}** | {verdict.numbers} |")
    return "\n".join(lines) + "\n"


def lower_loss(
    loss: str, better: str, worse: str, tier: str = "", *, only: bool = False
) -> Callable[["Found"], Verdict]:
    """The arm `better` ends with a lower held-out loss than `worse`; `only`: no other tier can say so."""

    def judge(found: "Found") -> Verdict:
        used = tier if only else found.tier((better, worse), tier)
        sides = [found.arm(name, used) for name in (better, worse)]
        values = [[run.losses[loss] for run in side if loss in run.losses] for side in sides]
        if not all(values):
            return Verdict(NOT_RUN, _absent(found, (better, worse), tier))
        means = [statistics.fmean(side) for side in values]
        numbers = f"{LABELS[loss]}: {better} {means[0]:.3f}, {worse} {means[1]:.3f}{_budget(used, tier)}"
        error = _standard_error(found, loss, values)
        if error is None:
            return Verdict(UNDECIDED, f"{numbers}; one seed, and nothing that says how far seeds lie apart")
        numbers += f"; difference {means[0] - means[1]:+.3f}, standard error over seeds {error:.3f}"
        if abs(means[0] - means[1]) <= 2 * error:
            return Verdict(UNDECIDED, numbers)
        return Verdict(REPRODUCED if means[0] < means[1] else NOT_REPRODUCED, numbers)

    return judge


def _standard_error(found: "Found", loss: str, values: Sequence[Sequence[float]]) -> float | None:
    """Of the difference of means over seeds. Where an arm has one seed, seeds vary as in arms that have several."""
    if min(len(side) for side in values) >= 2:
        return float(sum(statistics.variance(side) / len(side) for side in values) ** 0.5)
    seeds: dict[tuple[str, str], list[float]] = {}
    for run in found.runs:
        if run.tier in ("", "first") and loss in run.losses:
            seeds.setdefault((run.tier, run.arm), []).append(run.losses[loss])
    variances = [statistics.variance(side) for side in seeds.values() if len(side) > 1]
    if not variances:
        return None
    return float((statistics.fmean(variances) * sum(1 / len(side) for side in values)) ** 0.5)


def _budget(used: str, wanted: str) -> str:
    return " (at a tenth of the budget)" if used != wanted else ""


def higher_score(
    benchmark: str, mode: str, better: str, worse: str, tier: str = "", *, at_least: bool = False
) -> Callable[["Found"], Verdict]:
    """The arm `better` scores higher than `worse`; `at_least`: or the same, within three points."""

    def judge(found: "Found") -> Verdict:
        used = found.tier((better, worse), tier)
        sides = [[run for run in found.arm(name, used) if benchmark in run.scores] for name in (better, worse)]
        if not all(sides):
            return Verdict(NOT_RUN, _absent(found, (better, worse), tier))
        rows = _paired(sides, benchmark, mode)
        if not rows:
            return Verdict(NOT_RUN, f"no {mode} on {benchmark}")
        numbers = "; ".join(_row(row, better, worse) for row in rows) + _budget(used, tier)
        head = next(row for row in rows if row["is_headline"])
        if at_least and head["low"] > -0.03:
            return Verdict(REPRODUCED, numbers)
        if head["p_holm"] >= SURE or "spread of seeds" in head["note"]:
            return Verdict(UNDECIDED, numbers)
        return Verdict(REPRODUCED if head["difference"] > 0 else NOT_REPRODUCED, numbers)

    return judge


def _paired(sides: Sequence[Sequence["Run"]], benchmark: str, mode: str) -> list[dict[str, Any]]:
    """The headline's comparison and that by PMI."""
    paths = [[run.scores[benchmark].path for run in side] for side in sides]
    rows = compare(paths[0], paths[1])["rows"]
    return [row for row in rows if row["mode"] == mode and (row["is_headline"] or row["variant"] == "pmi_mean")]


def _row(row: dict[str, Any], better: str, worse: str) -> str:
    name = row["variant"] if row["is_headline"] else "PMI"
    interval = f"[{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
    return (
        f"{name}: {better} {100 * row['a']:.1f}%, {worse} {100 * row['b']:.1f}%, "
        f"{100 * row['difference']:+.1f} {interval}, p = {row['p_value']:.2g}"
    )


def saving(arm: str) -> Callable[["Found"], Verdict]:
    """With the same data the arm needs a fifth less compute, by the paper's count."""

    def judge(found: "Found") -> Verdict:
        ours, base = found.arm(arm, "data"), found.arm("base", "data")
        if not ours or not base:
            return Verdict(NOT_RUN, _absent(found, (arm, "base"), "data"))
        shares = {key: 1 - ours[0].costs[key] / base[0].costs[key] for key in ("global_units", "flops", "minutes")}
        numbers = "saved: " + ", ".join(f"{key.replace('_', ' ')} {100 * share:.1f}%" for key, share in shares.items())
        close = abs(shares["global_units"] - 0.195) < 0.05
        return Verdict(REPRODUCED if close else NOT_REPRODUCED, numbers)

    return judge


def recognition(found: "Found") -> Verdict:
    """LST's word error rate after the fewest steps is below base's, reading fewer patches."""
    stages = [found.stages.get(f"{name}-0-asr-1x-wer") for name in ("curriculum", "base")]
    if stages[0] is None or stages[1] is None:
        return Verdict(NOT_RUN, "no fine-tuned models")
    lst, base = (json.loads(stage.file("summary.json").read_text(encoding="utf-8")) for stage in stages if stage)
    parts = [
        f"{100 * side['wer']['value']:.1f}% [{100 * side['wer']['low']:.1f}, {100 * side['wer']['high']:.1f}]"
        for side in (lst, base)
    ]
    numbers = f"WER: LST {parts[0]}, base {parts[1]}; one seed"
    if lst["wer"]["high"] < base["wer"]["low"]:
        return Verdict(REPRODUCED, numbers)
    return Verdict(NOT_REPRODUCED if base["wer"]["high"] < lst["wer"]["low"] else UNDECIDED, numbers)


def synthesis(found: "Found") -> Verdict:
    """LST speaks as intelligibly, in a quarter of the global steps."""
    stages = [found.stages.get(f"{name}-0-tts-cer") for name in ("curriculum", "base")]
    if stages[0] is None or stages[1] is None:
        return Verdict(NOT_RUN, "no fine-tuned models")
    lst, base = stages[0].totals, stages[1].totals
    numbers = ", ".join(f"{key}: LST {lst[key]:.3g}, base {base[key]:.3g}" for key in lst if key in base)
    if "cer" not in lst or "cer" not in base:
        return Verdict(UNDECIDED, f"{numbers}; no judge was installed")
    return Verdict(REPRODUCED if lst["cer"] < base["cer"] + 0.03 else NOT_REPRODUCED, f"{numbers}; one seed")


def scaling(found: "Found") -> Verdict:
    """The loss falls with FLOPs along a line in logarithms, LST's below base's."""
    slopes = {}
    for arm in ("base", "static"):
        runs = [run for run in found.runs if run.tier == "size" and run.arm.startswith(f"{arm}-")]
        if len(runs) < 4:
            return Verdict(NOT_RUN, f"{len(runs)} of 4 sizes of {arm}")
        for loss in LABELS:
            slopes[arm, loss] = _slope([(run.costs["flops"], run.losses[loss]) for run in runs])
    numbers = "; ".join(f"{arm}, {LABELS[loss]}: slope {slope:.4f}" for (arm, loss), slope in slopes.items())
    return Verdict(UNDECIDED, f"{numbers} (logarithms of both); one seed")


def _slope(points: Sequence[tuple[float, float]]) -> float:
    import numpy as np

    flops, losses = np.log(np.array(points)).T
    return float(np.polyfit(flops, losses, 1)[0])


def accounting(found: "Found") -> Verdict:
    """Of the interleaved tokens 0.77 are units, and patches of 4 make 3.00 tokens 2.42 global units."""
    runs = [run for run in found.runs if run.arm == "static" and run.tier in ("", "first", "quarter")]
    if not runs:
        return Verdict(NOT_RUN, "no run with static patches")
    costs = runs[0].costs
    original = costs["units"] + costs["text_tokens"]
    ratio, share = costs["global_units"] / original, 3 * costs["units"] / original
    numbers = f"{ratio:.3f} global units per token (paper 0.81), units of interleaved tokens {share:.2f} (0.77)"
    return Verdict(REPRODUCED if abs(ratio - 0.81) < 0.05 else NOT_REPRODUCED, numbers)


def _absent(found: "Found", arms: Sequence[str], tier: str) -> str:
    there = [name for name in arms if found.arm(name, tier)]
    return f"no {', '.join(name for name in arms if name not in there)}" if len(there) < len(arms) else "not scored"


TOPIC = "topic-storycloze"
CLAIMS: list[tuple[str, str, Callable[["Found"], Verdict]]] = [
    ("Table 3", "static patches of 4 beat base at equal FLOPs, speech loss", lower_loss("speech", "static", "base")),
    ("Table 3", "the same, text loss", lower_loss("text", "static", "base")),
    ("Table 3", "the curriculum beats base at equal FLOPs, speech loss", lower_loss("speech", "curriculum", "base")),
    ("Table 3", "the same, text loss", lower_loss("text", "curriculum", "base")),
    ("Table 3", "static beats base, topic story cloze S→S", higher_score(TOPIC, "s-s", "static", "base")),
    ("Table 3", "static beats base, topic story cloze T→T", higher_score(TOPIC, "t-t", "static", "base")),
    ("Table 3", "the curriculum beats base, topic story cloze S→S", higher_score(TOPIC, "s-s", "curriculum", "base")),
    (
        "Table 3",
        "the curriculum beats static, topic story cloze S→S",
        higher_score(TOPIC, "s-s", "curriculum", "static"),
    ),
    ("Table 3", "static beats base, story cloze S→S", higher_score("storycloze", "s-s", "static", "base")),
    (
        "Table 3",
        "static beats base at equal global units, speech loss",
        lower_loss("speech", "static", "base", "quarter", only=True),
    ),
    (
        "Table 3, FLOPs counted",
        "static beats a base of as many FLOPs, speech loss",
        lower_loss("speech", "static", "base-matched", "quarter"),
    ),
    (
        "Table 3",
        "a BPE of units does not beat base, S→S",
        higher_score(TOPIC, "s-s", "base", "bpe", "quarter", at_least=True),
    ),
    ("Table 3", "aligned patches beat base, S→S", higher_score(TOPIC, "s-s", "aligned", "base", "quarter")),
    ("Table 4", "static saves 19% of the compute with the same data", saving("static")),
    ("Table 4", "and scores no less, S→S", higher_score(TOPIC, "s-s", "static", "base", "data", at_least=True)),
    (
        "Table 4",
        "the curriculum saves 20% and scores no less, S→S",
        higher_score(TOPIC, "s-s", "curriculum", "base", "data", at_least=True),
    ),
    ("Table 5", "LST recognises after fewer steps, with a quarter of the context", recognition),
    ("Table 5", "LST speaks as well with a quarter of the steps", synthesis),
    ("Table 6", "patches of 4 beat patches of 6, speech loss", lower_loss("speech", "static", "static-6", "quarter")),
    ("Table 6", "patches of 4 beat patches of 9, speech loss", lower_loss("speech", "static", "static-9", "quarter")),
    (
        "Table 10",
        "silence apart beats silence merged, S→S",
        higher_score(TOPIC, "s-s", "aligned", "aligned-merged", "quarter"),
    ),
    ("Figure 4", "the gain holds from size to size", scaling),
    ("Figure 6", "static beats base at 1 to 1, S→S", higher_score(TOPIC, "s-s", "static-1-1", "base-1-1", "quarter")),
    ("Figure 6", "static beats base at 1 to 3, S→S", higher_score(TOPIC, "s-s", "static-1-3", "base-1-3", "quarter")),
    (
        "Table 12",
        "words by ear: no worse than base",
        higher_score("spoken-word", "s-s", "curriculum", "base", at_least=True),
    ),
    (
        "Table 12",
        "grammar by ear: no worse than base",
        higher_score("grammar", "s-s", "curriculum", "base", at_least=True),
    ),
    (
        "A.11",
        "boundaries moved by 40 ms cost no more than a few points",
        higher_score(TOPIC, "s-s", "aligned-shifted-1", "aligned", "quarter", at_least=True),
    ),
    ("Table 13", "the token accounting", accounting),
]
