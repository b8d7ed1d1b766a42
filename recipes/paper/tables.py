"""The tables of `docs/results.md`. Over seeds: mean ± standard deviation; [in brackets]: 95% interval over items."""

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evidence import accuracy, of_losses
from runs import BENCHMARKS, LABELS, RECIPE, Found, Run
from special import FINETUNED, saved_shares, size_lines

from lst.pipeline.recipe import load_recipe

MODES = {"s-s": "S→S", "t-t": "T→T", "s-t": "S→T", "t-s": "T→S"}
NOTHING = "Not run.\n"

_PLACE = re.compile(r"(?<!\S)/\S*/")
"""Where something lay on the machine of the runs."""


@dataclass(frozen=True)
class Section:
    """A table of the paper: arms of one tier, against the first of them. `note`: what is the same and what differs."""

    title: str
    tier: str
    arms: tuple[str, ...]
    note: str


SECTIONS = (
    Section(
        "Table 3, equal FLOPs",
        "",
        ("base", "base-matched", "static", "static-direct", "curriculum"),
        "The full budget, 2e14 FLOPs, everything counted: local modules, heads, backward pass. "
        "The paper counts global units only, which leaves out what the local modules of LST cost.",
    ),
    Section(
        "Why: other local modules, equal FLOPs",
        "",
        ("base", "static", "slow-static", "static-direct", "wide-static", "wide-direct", "curriculum-direct"),
        "Looks for the reason of what Table 3 shows; base was given none of this. `slow-static`: half of static's "
        "rate, which is base's. `-direct`: text goes past the local modules, straight into the global transformer. "
        "`wide-`: local modules as wide as the global transformer (192, not 96).",
    ),
    Section(
        "Table 3, equal global units",
        "quarter",
        ("base", "base-matched", "bpe", "static", "aligned", "mixed", "curriculum"),
        "The paper's way: as many steps of the global transformer for all, so that LST reads more. Compare the FLOPs.",
    ),
    Section(
        "Table 4, equal data",
        "data",
        ("base", "bpe", "static", "aligned", "mixed", "curriculum"),
        "The same units and text tokens for all; what differs is compute.",
    ),
    Section(
        "Tables 6 and 10, patches and curricula",
        "quarter",
        (
            "static",
            "static-6",
            "static-9",
            "aligned",
            "aligned-merged",
            "aligned-bpe",
            "curriculum",
            "curriculum-merged",
            "curriculum-late",
            "curriculum-early",
        ),
        "Equal global units. Longer patches read more data for them. Differences are from static patches of 4.",
    ),
    Section(
        "Figure 6, how much speech beside how much text",
        "quarter",
        ("base-1-1", "static-1-1", "base", "static", "base-1-3", "static-1-3"),
        "Equal global units; 1 to 2 unless the name says otherwise. Differences are from base at 1 to 1.",
    ),
    Section(
        "A.11, shifted boundaries",
        "quarter",
        ("aligned", "aligned-shifted-1", "aligned-shifted-2"),
        "Equal global units; in training the boundaries of aligned patches are moved at random by up to 40 and 80 ms.",
    ),
    Section(
        "First look",
        "first",
        ("base", "base-matched", "static", "static-direct", "curriculum", "aligned", "mixed", "bpe"),
        "A tenth of the full budget, FLOPs alike.",
    ),
)


def section(found: Found, about: Section) -> str:
    """Losses, accuracies and costs of its arms, as far as there are runs."""
    groups = {arm: runs for arm in about.arms if (runs := found.arm(arm, about.tier))}
    if not groups:
        return NOTHING
    missing = [arm for arm in about.arms if arm not in groups]
    parts = [about.note + (f" Not run: {', '.join(missing)}." if missing else "") + "\n", losses_table(groups)]
    scored = [name for name in BENCHMARKS if any(name in run.scores for runs in groups.values() for run in runs)]
    for benchmark in scored:
        parts.append(f"{benchmark}, accuracy in %:\n")
        parts.append(scores_table(groups, benchmark))
    return "\n".join([*parts, costs_table(groups)])


def losses_table(groups: Mapping[str, Sequence[Run]]) -> str:
    """Held-out losses by arm, and the difference from the first arm, seed by seed."""
    rows = []
    for arm, runs in groups.items():
        losses = [spread([run.losses[key] for run in runs if key in run.losses], 3) for key in LABELS]
        rows.append([arm, str(len(runs)), *losses])
    table = markdown(["arm", "seeds", *LABELS.values()], rows)
    (name, first), *others = groups.items()
    if not others:
        return table
    against = [[arm, *(_against(runs, first, loss) for loss in LABELS)] for arm, runs in others]
    return f"{table}\nLess {name}'s of the same seed:\n\n{markdown(['arm', *LABELS.values()], against)}"


def _against(runs: Sequence[Run], base: Sequence[Run], loss: str) -> str:
    """`-7.821 ± 0.284 (p = 0.0004)`, seed by seed."""
    found = of_losses(*({run.seed: run.losses[loss] for run in side if loss in run.losses} for side in (runs, base)))
    if found is None:
        return ""
    text = f"{found.mean:+.3f}" + (f" ± {found.std:.3f}" if found.std is not None else "")
    return text if found.p is None else f"{text} (p = {found.p:.2g})"


def growth_table(found: Found) -> str:
    """How far arms are from base at every budget whose schedule has ended, seed by seed."""
    rows = []
    for tier in ("first", "sweep", ""):
        base = _chosen(found, "base", tier)
        for arm in ("base-matched", "static", "static-direct", "wide-static", "curriculum", "slow-static"):
            runs = _chosen(found, arm, tier)
            shared = {run.seed for run in runs} & {run.seed for run in base}
            if shared:
                budget = f"{statistics.fmean(run.costs['flops'] for run in runs):.2g}"
                cells = [_against(runs, base, loss) for loss in LABELS]
                rows.append([budget, arm, f"{runs[0].lr:g}", str(len(shared)), *cells])
    return markdown(["FLOPs", "arm", "rate", "seeds", *LABELS.values()], rows) if rows else NOTHING


def _chosen(found: Found, arm: str, tier: str) -> list[Run]:
    """The runs of an arm; of a sweep that with the best rate."""
    runs = found.arm(arm, tier)
    if tier != "sweep":
        return runs
    best = min((run for run in runs if run.loss is not None), key=lambda run: run.loss or 0.0, default=None)
    return [] if best is None else [best]


def scores_table(groups: Mapping[str, Sequence[Run]], benchmark: str) -> str:
    """Accuracies by arm and direction, by the headline and by PMI."""
    rows = []
    for arm, runs in groups.items():
        results = [run.scores[benchmark] for run in runs if benchmark in run.scores]
        if results:
            cells = [_accuracy(results, mode, variant) for mode in MODES for variant in ("headline", "pmi_mean")]
            rows.append([arm, str(len(results)), *cells])
    head = ["arm", "seeds", *(f"{label}{by}" for label in MODES.values() for by in ("", " by PMI"))]
    keep = [place for place in range(len(head)) if any(row[place] for row in rows)]
    return markdown([head[place] for place in keep], [[row[place] for place in keep] for row in rows])


def _accuracy(results: Sequence[Any], mode: str, variant: str) -> str:
    """`62.1 ± 0.4 [59.3, 64.8]`."""
    found = accuracy(results, mode, variant)
    if found is None:
        return ""
    each = [one for one in (accuracy([result], mode, variant) for result in results) if one is not None]
    return f"{spread([100 * one[0] for one in each], 1)} [{100 * found[1]:.1f}, {100 * found[2]:.1f}]"


def costs_table(groups: Mapping[str, Sequence[Run]]) -> str:
    """What the arms cost, means over seeds."""
    head = ["arm", "parameters", "rate", "steps", "FLOPs", "global units", "units", "text tokens", "patch"]
    head += ["minutes", "MFU", "device"]
    rows = []
    for arm, runs in groups.items():

        def mean(key: str, some: Sequence[Run] = runs) -> float:
            return statistics.fmean(run.costs[key] for run in some)

        used = [run.mfu for run in runs if run.mfu is not None]
        lengths = [run.patch_length for run in runs if run.patch_length is not None]
        cells = [arm, f"{runs[0].parameters / 1e6:.2f} M", ", ".join(dict.fromkeys(f"{run.lr:g}" for run in runs))]
        cells += [f"{mean('steps'):,.0f}", f"{mean('flops'):.3g}"]
        cells += [f"{mean(key):,.0f}" for key in ("global_units", "units", "text_tokens")]
        cells += [f"{statistics.fmean(lengths):.2f}" if lengths else ""]
        cells += [f"{mean('training_minutes'):.1f}"]
        cells += [f"{100 * statistics.fmean(used):.2f}%" if used else ""]
        cells.append(", ".join(dict.fromkeys(run.device for run in runs if run.device)))
        rows.append(cells)
    return markdown(head, rows)


def savings_table(found: Found) -> str:
    """Table 4: what the arms save with the same data, against base."""
    rows = []
    for arm in ("bpe", "static", "aligned", "mixed", "curriculum"):
        pairs = found.pairs(arm, "base", "data")
        if pairs:
            saved = saved_shares(pairs)
            cells = [f"{100 * saved[key]:.1f}%" if key in saved else "" for key in SAVED]
            rows.append([arm, str(len(pairs)), *cells])
    return markdown(["arm", "seeds", *(f"{name} saved" for name in SAVED.values())], rows) if rows else ""


SAVED = {"global_units": "global units", "flops": "FLOPs, all counted", "training_minutes": "time of training"}


def recognition_table(found: Found) -> str:
    """Table 5, recognition: error rates after so many steps of fine-tuning, and what was read for them."""
    rows = []
    for arm, label in FINETUNED.items():
        for times in (1, 2, 4):
            body = found.summary(f"{arm}-0-asr-{times}x-wer")
            tuned = found.stages.get(f"{arm}-0-asr-{times}x")
            if body is None or tuned is None:
                continue
            rates = [_rate(body[name]) for name in ("wer", "cer", "non_stopping", "hallucination")]
            lines = [f"{body['utterances']}", *rates, f"{body['context_per_second']:.2f}"]
            rows.append([f"{label} ({arm}-0)", f"{tuned.config['budget']['amount']:,.0f}", *lines])
    head = ["model", "steps", "utterances", "WER %", "CER %", "does not stop %", "invents %", "global units per s read"]
    return markdown(head, rows) if rows else NOTHING


def synthesis_table(found: Found) -> str:
    """Table 5, synthesis: how well a recogniser understands what was said, its own floor, and what was generated."""
    rows, missing, judge = [], {}, ""
    floor: dict[str, Any] = {}
    for arm, label in FINETUNED.items():
        body = found.summary(f"{arm}-0-tts-cer")
        if body is None:
            continue
        counts = [f"{body['units']:.1f}", f"{body['global_steps']:.1f}", f"{body['steps_per_unit']:.3f}"]
        counts.append(_rate(body["non_stopping"]))
        rows.append([f"{label} ({arm}-0)", str(body["texts"]), *_judged(body["sets"].get("model", {})), *counts])
        floor = {name: part for name, part in body["sets"].items() if name != "model"} or floor
        missing |= body["missing"]
        judge = body.get("judge", judge)
    if not rows:
        return NOTHING
    rows += [[name, "", *_judged(part), "", "", "", ""] for name, part in floor.items()]
    head = ["model", "texts", "CER %", "WER %", "DNSMOS", "units a text", "global units a text", "per unit"]
    notes = [f"{name} is missing: {_PLACE.sub('', why)}" for name, why in missing.items()] + (
        [f"Judge: {judge}."] if judge else []
    )
    return markdown([*head, "does not stop %"], rows) + "".join(f"\n{note}\n" for note in notes)


def _judged(part: Mapping[str, float]) -> list[str]:
    rates = [
        f"{100 * part[name]:.1f} [{100 * part[f'{name}_low']:.1f}, {100 * part[f'{name}_high']:.1f}]"
        if name in part
        else ""
        for name in ("cer", "wer")
    ]
    return [*rates, f"{part['dnsmos']:.2f}" if "dnsmos" in part else ""]


def _rate(part: Mapping[str, float]) -> str:
    return f"{100 * part['value']:.1f} [{100 * part['low']:.1f}, {100 * part['high']:.1f}]"


def sizes_table(found: Found) -> str:
    """Figure 4: losses by size, and the lines through them."""
    runs = sorted((run for run in found.runs if run.tier == "size"), key=lambda run: (run.arm, run.costs["flops"]))
    if not runs:
        return NOTHING
    rows = []
    for run in runs:
        read = f"{run.costs['units'] + run.costs['text_tokens']:,.0f}"
        losses = [f"{run.losses[key]:.3f}" if key in run.losses else "" for key in LABELS]
        cells = [run.arm, f"{run.parameters / 1e6:.2f} M", read, f"{run.costs['flops']:.3g}"]
        rows.append([*cells, f"{run.costs['global_units']:,.0f}", *losses])
    head = ["run", "parameters in all", "tokens read", "FLOPs", "global units", *LABELS.values()]
    fits = []
    for loss in ("speech", "text"):
        for arm, line in size_lines(found, loss).items():
            fits.append([arm, LABELS[loss], f"{line.slope:.4f} ± {line.error:.4f}", str(len(line.x))])
    text = markdown(head, rows)
    if fits:
        text += "\nLines of log loss over log FLOPs (slope ± standard error of the fit):\n\n"
        text += markdown(["arm", "loss", "slope", "sizes"], fits)
    return text


def rates_table(found: Found) -> str:
    """What the sweep says of each arm, and what the recipes use."""
    sweep = [run for run in found.runs if run.tier == "sweep" and run.loss is not None]
    if not sweep:
        return "The sweep was not run: all arms have the rate that `training.yaml` says.\n"
    used = {name: node.config for name, node in load_recipe(RECIPE).stages.items()}
    tried = sorted({run.lr for run in sweep})
    rows = []
    for arm in dict.fromkeys(run.arm for run in sweep):
        losses = {run.lr: run.loss or 0.0 for run in sweep if run.arm == arm}
        best = min(losses, key=lambda lr: losses[lr])
        config: Any = next(used[name] for name in (f"{arm}-0", f"quarter-{arm}-0", f"first-{arm}-0") if name in used)
        rate = float(config.optimizer.lr)
        cells = [f"{losses[lr]:.4f}" if lr in losses else "" for lr in tried]
        rows.append([arm, *cells, f"{best:g}", f"{rate:g}" + ("" if rate == best else ", **not the best**")])
    budgets = ", ".join(dict.fromkeys(f"{run.costs['flops']:.1g}" for run in sweep))
    table = markdown(["arm", *(f"{lr:g}" for lr in tried), "best", "used"], rows)
    return (
        f"Held-out loss after {budgets} FLOPs, one seed, in nats per target: it compares rates, not arms, whose "
        f"targets differ (a BPE piece is worth more than a unit).\n\n{table}"
    )


def words_table(found: Found) -> str:
    """Figure 5: how alike the patches of a word are, beside the bare units, which need no model."""
    words = found.stages.get("quarter-aligned-0-words")
    if words is None:
        return NOTHING
    return words.file("summary.md").read_text(encoding="utf-8").partition("\n\n")[2]


def data_table(found: Found) -> str:
    """Table 13: what the corpus holds and what patching makes of it."""
    if "interleave" not in found.stages or "tokenize-text" not in found.stages:
        return "Not made: no corpus, or not all of it.\n"
    pairs, text = found.stages["interleave"].totals, found.stages["tokenize-text"].totals
    rows = [
        ["hours of speech", f"{pairs['hours']:.2f}"],
        ["utterances for training / held out", f"{pairs['train_rows']:,.0f} / {pairs['valid_rows']:,.0f}"],
        ["units", f"{pairs['units']:,.0f}"],
        ["words, text tokens of the speech", f"{pairs['words']:,.0f}, {pairs['tokens']:,.0f}"],
        ["units per word", f"{pairs['units'] / pairs['words']:.2f}"],
        ["text tokens beside it", f"{text['tokens']:,.0f}"],
    ]
    return markdown(["", ""], rows) + "\n" + _accounting(found)


def _accounting(found: Found) -> str:
    """What was read by one seed of every arm, by the largest of its runs."""
    chosen: dict[str, Run] = {}
    for tier in ("", "quarter", "first"):
        for run in found.runs:
            if run.tier == tier and run.seed == 0:
                chosen.setdefault(run.arm, run)
    rows = []
    for run in chosen.values():
        units, tokens = run.costs["units"], run.costs["text_tokens"]
        share = units / (units + tokens)
        length = "" if run.patch_length is None else f"{run.patch_length:.2f}"
        ratio = f"{run.costs['global_units'] / (units + tokens):.3f}"
        rows.append(
            [run.name, f"{units:,.0f}", f"{tokens:,.0f}", f"{share:.3f}", f"{share / run.mixed:.2f}", length, ratio]
        )
    head = ["run", "units read", "text tokens", "share of units", "of interleaved", "units per patch"]
    return markdown([*head, "global units per token"], rows) if rows else ""


def missing(found: Found) -> str:
    """The stages of the recipe that are not there; of a model that is not there its measurements are not named."""
    left = [name for name in found.wanted if name not in found.stages]
    if not left:
        return "Nothing is missing.\n"
    prefixes = tuple(f"{name}-" for name in left)
    named = [name for name in left if not name.startswith(prefixes)]
    more = f", and {len(left) - len(named)} that need these" if len(named) < len(left) else ""
    return f"{len(left)} of {len(found.wanted)} stages: {', '.join(f'`{name}`' for name in named)}{more}.\n"


def spread(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation; a single value as it is."""
    if not values:
        return ""
    text = f"{statistics.fmean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)
