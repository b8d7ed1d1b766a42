"""What the runs of `recipes/paper` show: CSV, figures, and `docs/results.md`. Nothing in it is typed by hand.

    python recipes/paper/results.py outputs/paper docs      # docs/results.md and docs/results/*.csv, *.png

It reads whatever stages are finished and says of the rest that they were not run. The verdicts are in `claims.py`.
"""

import csv
import io
import json
import re
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from lst.manifest import Manifest, write_atomic
from lst.pipeline.recipe import load_recipe
from lst.pipeline.run import read_runs
from lst.pipeline.summary import stage_manifests

RECIPE = Path(__file__).with_name("all.yaml")
BENCHMARKS = ("topic-storycloze", "storycloze", "spoken-word", "grammar")
LOSSES = {
    "speech": ("speech", "speech_bits_per_second"),
    "text": ("text", "text_bits_per_token"),
    "interleaved_speech": ("interleaved", "speech_bits_per_second"),
    "interleaved_text": ("interleaved", "text_bits_per_token"),
}
"""Held out: S->S, T->T, and both modalities of interleaved utterances, by validation set and key."""
COSTS = ("steps", "flops", "global_units", "units", "text_tokens", "minutes")
TIERS = {
    "": "full budget",
    "quarter": "a quarter of it, the same number of global units for all",
    "first": "a tenth of it",
    "data": "about a tenth of it, the same data for all",
    "sweep": "learning rates",
    "size": "sizes",
}
_NAME = re.compile(r"(?:(quarter|data|first|sweep|size)-)?(.+?)(?:-(\d+))?$")


@dataclass(frozen=True)
class Run:
    """A pre-trained model: `losses` at the end by the names of `LOSSES`, `costs` by those of `COSTS`."""

    name: str
    tier: str
    arm: str
    seed: int
    lr: float
    parameters: int
    losses: dict[str, float]
    costs: dict[str, float]
    curve: list[dict[str, float]]
    loss: float | None = None
    """Nats per target over all that is held out: what learning rates of one arm are compared by."""
    scores: dict[str, Manifest] = field(default_factory=dict)
    """`lst.eval/1` by benchmark."""


@dataclass(frozen=True)
class Found:
    """All that was made, and all that the recipe asks for."""

    runs: list[Run]
    stages: dict[str, Manifest]
    wanted: list[str]

    def arm(self, arm: str, tier: str = "") -> list[Run]:
        """The seeds of an arm."""
        return [run for run in self.runs if (run.arm, run.tier) == (arm, tier)]

    def tier(self, arms: Sequence[str], wanted: str = "") -> str:
        """The tier in which these arms can be compared: the wanted one, else the first look, where all are there."""
        whole = [tier for tier in (wanted, "first") if wanted != "data" and all(self.arm(arm, tier) for arm in arms)]
        return whole[0] if whole else wanted


def main(directory: Path, docs: Path) -> None:
    """Read the runs below `directory`; write everything into `docs`."""
    from claims import claims_table

    found = read(directory)
    out = docs / "results"
    docs.mkdir(parents=True, exist_ok=True)
    if found.runs:
        out.mkdir(exist_ok=True)
        write_atomic(out / "runs.csv", runs_csv(found.runs))
        write_atomic(out / "scores.csv", scores_csv(found.runs))
        write_atomic(out / "curves.csv", curves_csv(found.runs))
        write_atomic(out / "speech.csv", speech_csv(found))
    figures = write_figures(found, out)
    parts = [
        INTRODUCTION,
        "## Claims\n\n" + claims_table(found),
        "## Learning rates\n\n" + rates_table(found),
        "## Data\n\n" + data_table(found),
        *(f"## Runs: {title}\n\n" + runs_table(found, tier) for tier, title in TIERS.items()),
        "## Recognising and speaking\n\n" + speech_table(found),
        *(f"![{title}](results/{name})\n" for name, title in figures.items()),
        "## Not run\n\n" + missing(found),
    ]
    write_atomic(docs / "results.md", "\n".join(parts))
    made = sum(name in found.stages for name in found.wanted)
    print(f"{docs / 'results.md'}: {made} of {len(found.wanted)} stages, {len(found.runs)} models")


def read(directory: Path) -> Found:
    """The finished stages below a run's directory."""
    wanted = load_recipe(RECIPE).stages
    # Beside them there may be others of this corpus, such as those of the model in the box.
    stages = {name: manifest for name, manifest in stage_manifests(directory).items() if name in wanted}
    seconds = {name: entry["seconds"] for name, entry in read_runs(directory)["stages"].items()}
    runs = [_run(name, manifest, seconds[name]) for name, manifest in stages.items() if manifest.stage == "pretrain"]
    for run in runs:
        for benchmark in BENCHMARKS:
            if f"{run.name}-{benchmark}" in stages:
                run.scores[benchmark] = stages[f"{run.name}-{benchmark}"]
    return Found(runs, stages, list(wanted))


def _run(name: str, manifest: Manifest, seconds: float) -> Run:
    lines = [json.loads(line) for line in manifest.file("metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    curve, cost = [], {"flops": 0.0, "global_units": 0.0}
    for line in sorted(lines, key=lambda line: (line["step"], line["split"] == "valid")):
        if line["split"] == "train":
            cost = {key: line["total"][key] for key in cost}
            continue
        values = {key: line.get("sets", {}).get(part, {}).get(value) for key, (part, value) in LOSSES.items()}
        curve.append(
            {"step": line["step"], **cost, **{key: value for key, value in values.items() if value is not None}}
        )
    last = curve[-1] if curve else {}
    named = _NAME.fullmatch(name)
    assert named is not None
    arm = named[2]
    if named[1] == "sweep":
        arm = name.removeprefix("sweep-").rsplit("-", 2)[0]  # ARM-2e-3: the rate is in the settings
    return Run(
        name=name,
        tier=named[1] or "",
        arm=arm,
        seed=int(manifest.config["seed"]),
        lr=float(manifest.config["optimizer"]["lr"]),
        parameters=int(manifest.totals["parameters"]),
        losses={key: last[key] for key in LOSSES if key in last},
        costs={key: float(manifest.totals.get(key, 0)) for key in COSTS[:-1]} | {"minutes": round(seconds / 60, 2)},
        curve=curve,
        loss=next((float(line["loss"]) for line in reversed(lines) if line["split"] == "valid"), None),
    )


def scores_of(manifest: Manifest) -> dict[str, Any]:
    """{mode: {n, headline, accuracy, low, high, variants}} of a benchmark's result."""
    modes: dict[str, Any] = json.loads(manifest.file("summary.json").read_text(encoding="utf-8"))["modes"]
    return modes


def runs_csv(runs: Sequence[Run]) -> str:
    """A line per model."""
    rows = [
        {"run": run.name, "tier": run.tier or "full", "arm": run.arm, "seed": run.seed, "lr": run.lr}
        | {"parameters": run.parameters, **{key: f"{value:.6g}" for key, value in (run.costs | run.losses).items()}}
        for run in runs
    ]
    return _csv(["run", "tier", "arm", "seed", "lr", "parameters", *COSTS, *LOSSES], rows)


def scores_csv(runs: Sequence[Run]) -> str:
    """A line per model, benchmark, mode and variant."""
    rows = []
    for run in runs:
        for benchmark, manifest in run.scores.items():
            for mode, body in scores_of(manifest).items():
                for variant, value in body["variants"].items():
                    numbers = {key: f"{value[key]:.5f}" for key in ("accuracy", "low", "high")}
                    about = {"run": run.name, "benchmark": benchmark, "mode": mode, "n": body["n"], "variant": variant}
                    rows.append(about | {"headline": int(variant == body["headline"])} | numbers)
    return _csv(["run", "benchmark", "mode", "n", "variant", "headline", "accuracy", "low", "high"], rows)


def curves_csv(runs: Sequence[Run]) -> str:
    """A line per validation."""
    rows = [
        {"run": run.name} | {key: f"{value:.6g}" for key, value in point.items()} for run in runs for point in run.curve
    ]
    return _csv(["run", "step", "flops", "global_units", *LOSSES], rows)


def speech_rows(found: Found) -> list[dict[str, Any]]:
    """What was measured of recognition and synthesis: stage and totals."""
    names = [name for name in found.stages if name.endswith(("-wer", "-cer"))]
    return [{"stage": name, **found.stages[name].totals} for name in names]


def speech_csv(found: Found) -> str:
    rows = speech_rows(found)
    return _csv(list(dict.fromkeys(["stage", *(key for row in rows for key in row)])), rows)


def speech_table(found: Found) -> str:
    rows = speech_rows(found)
    if not rows:
        return "Not run.\n"
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return markdown(keys, [[str(row.get(key, "")) for key in keys] for row in rows])


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
    for run in found.runs:
        if run.tier in ("", "first") and run.seed == 0:
            original = run.costs["units"] + run.costs["text_tokens"]
            share = run.costs["units"] / original
            rows.append(
                [
                    f"read by {run.name}: units, text tokens, share of units",
                    f"{run.costs['units']:,.0f}, {run.costs['text_tokens']:,.0f}, {share:.3f}",
                ]
            )
            rows.append(
                [f"global units per original token of {run.name}", f"{run.costs['global_units'] / original:.3f}"]
            )
    return markdown(["", ""], rows)


def rates_table(found: Found) -> str:
    """What the sweep says of each arm, and what the recipes use."""
    sweep = [run for run in found.runs if run.tier == "sweep" and run.loss is not None]
    if not sweep:
        return "The sweep was not run: all arms have the rate that `training.yaml` says.\n"
    used = {name: node.config for name, node in load_recipe(RECIPE).stages.items()}
    rows = []
    for arm in dict.fromkeys(run.arm for run in sweep):
        losses = {run.lr: run.loss for run in sorted(sweep, key=lambda run: run.lr) if run.arm == arm}
        best = min(losses, key=lambda lr: losses[lr] or 0.0)
        config: Any = next(used[name] for name in (f"{arm}-0", f"quarter-{arm}-0", f"first-{arm}-0") if name in used)
        rate = float(config.optimizer.lr)
        tried = ", ".join(f"{lr:g}: {loss:.4f}" for lr, loss in losses.items())
        rows.append([arm, tried, f"{best:g}", f"{rate:g}" + ("" if rate == best else ", **not the best**")])
    return markdown(["arm", "held-out loss by rate", "best", "used"], rows)


def runs_table(found: Found, tier: str) -> str:
    """A line per arm: costs, losses and accuracies, mean ± standard deviation over seeds."""
    runs = [run for run in found.runs if run.tier == tier]
    if not runs:
        return "Not run.\n"
    modes = ("s-s", "t-t", "s-t", "t-s")
    scored = [name for name in BENCHMARKS if any(name in run.scores for run in runs)]
    head = ["arm", "seeds", "lr", "parameters", "FLOPs", "global units", "units", "text tokens", "minutes"]
    head += ["S→S bits/s", "T→T bits/token", "interleaved bits/s", "interleaved bits/token"]
    head += [f"{name} {mode}" for name in scored for mode in modes]
    groups: dict[tuple[str, float], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.arm, run.lr), []).append(run)
    rows = []
    for (arm, lr), some in groups.items():
        mean = {key: statistics.fmean(run.costs[key] for run in some) for key in COSTS}
        cells = [arm, str(len(some)), f"{lr:g}", f"{some[0].parameters / 1e6:.2f} M", f"{mean['flops']:.3g}"]
        cells += [f"{mean['global_units']:,.0f}", f"{mean['units']:,.0f}", f"{mean['text_tokens']:,.0f}"]
        cells.append(f"{mean['minutes']:.1f}")
        cells += [spread([run.losses[key] for run in some if key in run.losses], 3) for key in LOSSES]
        for name in scored:
            parts = [scores_of(run.scores[name]) for run in some if name in run.scores]
            cells += [_accuracy([part[mode] for part in parts if mode in part]) for mode in modes]
        rows.append(cells)
    keep = [place for place in range(len(head)) if any(row[place] for row in rows)]
    table = markdown([head[place] for place in keep], [[row[place] for place in keep] for row in rows])
    note = "Accuracies: headline (by PMI), %; one model: with its 95% interval.\n" if scored else ""
    return table + ("\n" + note if note else "")


def _accuracy(parts: Sequence[Mapping[str, Any]]) -> str:
    """`62.1 ± 0.4 (PMI 70.2)`, or with one model `62.1 [59, 65] (PMI 70.2)`."""
    if not parts:
        return ""
    text = spread([100 * part["accuracy"] for part in parts], 1)
    if len(parts) == 1:
        text += f" [{100 * parts[0]['low']:.0f}, {100 * parts[0]['high']:.0f}]"
    pmi = [100 * part["variants"]["pmi_mean"]["accuracy"] for part in parts if "pmi_mean" in part["variants"]]
    return text + (f" (PMI {spread(pmi, 1)})" if pmi else "")


def spread(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation; a single value as it is."""
    if not values:
        return ""
    text = f"{statistics.fmean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def missing(found: Found) -> str:
    """The stages of the recipe that are not there."""
    left = [name for name in found.wanted if name not in found.stages]
    if not left:
        return "Nothing is missing.\n"
    return f"{len(left)} of {len(found.wanted)} stages: " + ", ".join(f"`{name}`" for name in left) + ".\n"


def write_figures(found: Found, out: Path) -> dict[str, str]:
    """Figures for which there are runs: file name -> title."""
    made = {}
    for name, title, tiers, x in (
        ("losses.png", "Held-out losses over FLOPs, all counted", ("", "first"), "flops"),
        ("quarter.png", "Held-out losses over global units, as the paper counts", ("quarter",), "global_units"),
        ("figure4.png", "Sizes: losses at the end over FLOPs", ("size",), "flops"),
    ):
        runs = [run for run in found.runs if run.tier in tiers and run.curve]
        if runs:
            write_atomic(out / name, _figure(runs, x, ends_only=name == "figure4.png"))
            made[name] = title
    return made


def _figure(runs: Sequence[Run], x: str, *, ends_only: bool) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2)
    labels = {"speech": "bits per second of speech", "text": "bits per text token"}
    for axis, (loss, label) in zip(axes, labels.items(), strict=True):
        arms = list(dict.fromkeys(run.arm.split("-")[0] if ends_only else run.arm for run in runs))
        for place, arm in enumerate(arms):
            some = [run for run in runs if arm == (run.arm.split("-")[0] if ends_only else run.arm)]
            if ends_only:
                points = sorted((run.costs[x], run.losses[loss]) for run in some if loss in run.losses)
                axis.plot(*zip(*points, strict=True), marker="o", color=f"C{place}", label=arm)
                continue
            for number, run in enumerate(some):
                points = [(point[x], point[loss]) for point in run.curve if loss in point]
                axis.plot(*zip(*points, strict=True), marker=".", color=f"C{place}", label=None if number else arm)
        axis.set_xscale("log")
        axis.set_xlabel("FLOPs, everything counted" if x == "flops" else "global units (patches and text tokens)")
        axis.set_ylabel(f"held out, {label}")
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=110, metadata={"Software": None})
    return sink.getvalue()


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    sink = io.StringIO()
    writer = csv.DictWriter(sink, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue()


INTRODUCTION = (Path(__file__).with_name("introduction.md")).read_text(encoding="utf-8")

if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
