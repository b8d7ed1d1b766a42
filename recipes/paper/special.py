"""Claims that are no difference between two arms' losses or scores: compute saved, fine-tunings, sizes, accounting."""

import json
from collections.abc import Sequence

import numpy as np
from evidence import Line, between_lines, fit_line, of_rates
from judges import MARGIN, NOT_REPRODUCED, NOT_RUN, REPRODUCED, UNDECIDED, Finding, Judge, above_chance
from numpy.typing import NDArray
from runs import Found, Run, scores_of

Float = NDArray[np.float64]
SIZES = 4
WORD_GAP = 0.87 - 0.43
"""Mean cosine within words less that between words, in the paper."""
FINETUNED = {"curriculum": "LST", "base": "base"}
"""Arms of Table 5; one seed each."""


def saving(arm: str, share: float) -> Judge:
    """With the same data the arm needs that share less compute, by the paper's count: within five points."""

    def judge(found: Found) -> Finding:
        pairs = found.pairs(arm, "base", "data")
        if not pairs:
            return Finding(f"no {arm} or no base with the same data", NOT_RUN)
        saved = saved_shares(pairs)
        names = {"global_units": "global units", "flops": "FLOPs, all counted", "training_minutes": "time of training"}
        numbers = "saved: " + ", ".join(
            f"{name} {100 * saved[key]:.1f}%" for key, name in names.items() if key in saved
        )
        return Finding(numbers, REPRODUCED if abs(saved["global_units"] - share) < 0.05 else NOT_REPRODUCED)

    return judge


def saved_shares(pairs: Sequence[tuple[Run, Run]]) -> dict[str, float]:
    """What the first of each pair saves, by the names of costs, over seeds; time only if all ran on one device."""
    keys = ["global_units", "flops"]
    if len({run.device for pair in pairs for run in pair}) == 1:
        keys.append("training_minutes")
    sums = {key: [sum(run.costs[key] for run in side) for side in zip(*pairs, strict=True)] for key in keys}
    return {key: 1 - ours / base for key, (ours, base) in sums.items() if base}


def small_spread(benchmark: str, mode: str, arms: Sequence[str]) -> Judge:
    """Three seeds of an arm score alike: the standard deviation is below one point.

    Models that guess score alike whatever the seed, so one arm at least has to be above chance.
    """

    def judge(found: Found) -> Finding:
        spreads = {}
        for arm in arms:
            runs = [run for run in found.arm(arm) if benchmark in run.scores]
            values = [scores_of(run.scores[benchmark])[mode]["accuracy"] for run in runs]
            if len(values) < 3:
                return Finding(f"{len(values)} scored seeds of {arm}", NOT_RUN)
            spreads[arm] = float(np.std(values, ddof=1))
        numbers = "standard deviation: " + ", ".join(f"{arm} {100 * value:.2f}" for arm, value in spreads.items())
        if not any(above_chance([run.scores[benchmark] for run in found.arm(arm)], mode) for arm in arms):
            return Finding(f"{numbers} points; no arm is above chance, so being alike says nothing", UNDECIDED)
        return Finding(f"{numbers} points", REPRODUCED if max(spreads.values()) < 0.01 else NOT_REPRODUCED)

    return judge


def recognition(times: int, base_times: int) -> Judge:
    """LST's word error rate after `times` as many steps is below that of base after `base_times`."""

    def judge(found: Found) -> Finding:
        names = {"curriculum": f"curriculum-0-asr-{times}x-wer", "base": f"base-0-asr-{base_times}x-wer"}
        made = {arm: found.summary(name) for arm, name in names.items()}
        lst, base = made["curriculum"], made["base"]
        if lst is None or base is None:
            return Finding("no fine-tuned models", NOT_RUN)
        value, low, high, p = of_rates(*_word_errors(found, names["curriculum"], names["base"]))
        numbers = f"WER: LST {_rate(lst['wer'])}, base {_rate(base['wer'])}; "
        numbers += f"difference {100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}], p = {p:.2g}; one seed"
        if min(lst["wer"]["value"], base["wer"]["value"]) > 0.8:
            numbers += "; neither recognises much"
        return Finding(numbers, sign=-1 if value > 0 else 1, p=p, holm=True)

    return judge


def _word_errors(found: Found, a: str, b: str) -> tuple[tuple[Float, Float], tuple[Float, Float]]:
    """Errors and reference words of the utterances that both heard."""
    from lst.evaluate.words import load_normaliser, word_errors

    heard = []
    for name in (a, b):
        lines = found.stages[name].file("heard.jsonl").read_text(encoding="utf-8").splitlines()
        heard.append({row["id"]: row for row in map(json.loads, lines) if "error" not in row})
    _, normalise = load_normaliser()
    shared = [name for name in sorted(set(heard[0]) & set(heard[1])) if normalise(heard[0][name]["reference"])]
    sides = []
    for rows in heard:
        found_errors = [word_errors([rows[name]["reference"]], [rows[name]["text"]]) for name in shared]
        words = np.array([errors.words for errors in found_errors], dtype=float)
        sides.append((np.array([errors.wer for errors in found_errors]) * words, words))
    return sides[0], sides[1]


def context(found: Found) -> Finding:
    """LST reads about a quarter of the context."""
    made = {label: found.summary(f"{arm}-0-asr-1x-wer") for arm, label in FINETUNED.items()}
    lst, base = made["LST"], made["base"]
    if lst is None or base is None:
        return Finding("no fine-tuned models", NOT_RUN)
    share = lst["context_per_second"] / base["context_per_second"]
    numbers = f"global units per second of speech read: LST {lst['context_per_second']:.2f}, "
    numbers += f"base {base['context_per_second']:.2f}: {share:.3f} of it"
    return Finding(numbers, REPRODUCED if abs(share - 0.25) < 0.05 else NOT_REPRODUCED)


def failures(found: Found) -> Finding:
    """After the fewest steps base does not stop, or invents, on more utterances than LST."""
    made = {label: found.summary(f"{arm}-0-asr-1x-wer") for arm, label in FINETUNED.items()}
    lst, base = made["LST"], made["base"]
    if lst is None or base is None:
        return Finding("no fine-tuned models", NOT_RUN)
    kinds = {"non_stopping": "does not stop", "hallucination": "invents"}
    numbers = "; ".join(f"{label}: LST {_rate(lst[kind])}, base {_rate(base[kind])}" for kind, label in kinds.items())
    worse = any(base[kind]["low"] > lst[kind]["high"] for kind in kinds)
    other = any(lst[kind]["low"] > base[kind]["high"] for kind in kinds)
    word = UNDECIDED if worse == other else REPRODUCED if worse else NOT_REPRODUCED
    return Finding(f"{numbers}; one seed", word)


def synthesis(found: Found) -> Finding:
    """LST speaks as intelligibly: its character error rate is at most three points higher."""
    made = {label: found.summary(f"{arm}-0-tts-cer") for arm, label in FINETUNED.items()}
    if made["LST"] is None or made["base"] is None:
        return Finding("no fine-tuned models", NOT_RUN)
    sides = [body["sets"].get("model", {}) for body in (made["LST"], made["base"]) if body is not None]
    if not all("cer" in side for side in sides):
        return Finding("no judge was installed", NOT_RUN)
    lst, base = sides
    value = lst["cer"] - base["cer"]
    reach = float(np.hypot(*((side["cer_high"] - side["cer_low"]) / 2 for side in sides)))
    numbers = f"CER: LST {_interval(lst, 'cer')}, base {_interval(base, 'cer')}; "
    numbers += f"difference {100 * value:+.1f} ± {100 * reach:.1f} (95%); one seed"
    if min(side["cer"] for side in sides) > 0.5:
        return Finding(f"{numbers}; neither can be understood, so being no worse says nothing", UNDECIDED)
    if value + reach < MARGIN:
        return Finding(numbers, REPRODUCED)
    return Finding(numbers, NOT_REPRODUCED if value - reach > 0 else UNDECIDED)


def generated_steps(found: Found) -> Finding:
    """LST says a unit of speech with a quarter of the global steps."""
    made = {label: found.summary(f"{arm}-0-tts-cer") for arm, label in FINETUNED.items()}
    lst, base = made["LST"], made["base"]
    if lst is None or base is None:
        return Finding("no fine-tuned models", NOT_RUN)
    share = lst["steps_per_unit"] / base["steps_per_unit"]
    numbers = f"global steps per unit: LST {lst['steps_per_unit']:.3f}, base {base['steps_per_unit']:.3f}; "
    numbers += f"units generated a text: LST {lst['units']:.1f}, base {base['units']:.1f}"
    return Finding(numbers, REPRODUCED if abs(share - 0.25) < 0.05 else NOT_REPRODUCED)


def _rate(part: dict[str, float]) -> str:
    return f"{100 * part['value']:.1f}% [{100 * part['low']:.1f}, {100 * part['high']:.1f}]"


def _interval(part: dict[str, float], name: str) -> str:
    return f"{100 * part[name]:.1f}% [{100 * part[f'{name}_low']:.1f}, {100 * part[f'{name}_high']:.1f}]"


def size_lines(found: Found, loss: str) -> dict[str, Line]:
    """Lines of log10 loss over log10 FLOPs of base and static, where there are sizes enough for an error (three)."""
    lines = {}
    for arm in ("base", "static"):
        runs = [
            run for run in found.runs if run.tier == "size" and run.arm.startswith(f"{arm}-") and loss in run.losses
        ]
        if len(runs) < 3:
            continue
        points = np.log10(np.array([(run.costs["flops"], run.losses[loss]) for run in runs]))
        lines[arm] = fit_line(points[:, 0], points[:, 1])
    return lines


def scaling(loss: str, what: str) -> Judge:
    """Of the lines of static and base: static's lies lower ("height"), or falls faster ("slope")."""

    def judge(found: Found) -> Finding:
        lines = size_lines(found, loss)
        sizes = {arm: len(lines[arm].x) if arm in lines else 0 for arm in ("base", "static")}
        if min(sizes.values()) < SIZES:
            return Finding(", ".join(f"{some} of {SIZES} sizes of {arm}" for arm, some in sizes.items()), NOT_RUN)
        value, low, high, p = between_lines(lines["static"], lines["base"])[what]
        if what == "height":
            parts = [100 * (10**number - 1) for number in (value, low, high)]
            numbers = f"static's loss at equal FLOPs: {parts[0]:+.1f}% [{parts[1]:+.1f}, {parts[2]:+.1f}]"
        else:
            slopes = ", ".join(f"{arm} {line.slope:.4f} ± {line.error:.4f}" for arm, line in lines.items())
            numbers = f"slopes (± standard error): {slopes}; difference {value:+.4f} [{low:+.4f}, {high:+.4f}]"
        return Finding(f"{numbers}, p = {p:.2g}; one seed a size", sign=-1 if value > 0 else 1, p=p)

    return judge


def accounting(found: Found) -> Finding:
    """Of the interleaved tokens 0.77 are units, and patches of 4 make 3.00 tokens 2.42 global units."""
    runs = [run for tier in ("", "quarter", "first") for run in found.arm("static", tier)]
    if not runs:
        return Finding("no run with static patches", NOT_RUN)
    costs = runs[0].costs
    original = costs["units"] + costs["text_tokens"]
    ratio, share = costs["global_units"] / original, costs["units"] / original / runs[0].mixed
    numbers = f"{runs[0].name}: {ratio:.3f} global units per token, units of interleaved tokens {share:.2f}"
    return Finding(numbers, REPRODUCED if abs(ratio - 0.81) < 0.05 else NOT_REPRODUCED)


def words_apart(found: Found) -> Finding:
    """Patches of one word are more alike than those of different words, by at least half of the paper's gap."""
    body = found.summary("quarter-aligned-0-words")
    if body is None:
        return Finding("no embeddings measured", NOT_RUN)
    numbers = ", ".join(f"{name} {body['totals'][name]:.2f}" for name in ("within", "between", "silhouette"))
    gap = body["totals"]["within"] - body["totals"]["between"]
    return Finding(f"{numbers}; one seed", REPRODUCED if gap > WORD_GAP / 2 else NOT_REPRODUCED)
