"""Trained models against each other: held-out loss curves by what was varied, over seeds, as CSV, figure and table."""

import csv
import io
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lst.errors import LstError
from lst.manifest import Manifest, explain_os_errors, load_manifest, write_atomic
from lst.manifest.inspect import differences
from lst.pipeline.run import RUN_FILE
from lst.pipeline.summary import stage_manifests
from lst.report.run import read_lines

CURVES_FILE = "curves.csv"
FIGURE_FILE = "curves.png"
TABLE_FILE = "table.md"

COSTS = ("global_units", "flops", "units", "text_tokens")
"""Sums since the start of training, over all processes."""
LOSSES = {
    "speech_bits_per_second": ("speech", "speech_bits_per_second"),
    "text_bits_per_token": ("text", "text_bits_per_token"),
    "text_to_speech_bits_per_second": ("interleaved", "text_to_speech_bits_per_second"),
    "speech_to_text_bits_per_token": ("interleaved", "speech_to_text_bits_per_token"),
}
"""Held-out losses by validation set and key: S->S, T->T, and across a change of modality in interleaved utterances."""
COLUMNS = ("arm", "seed", "step", *COSTS, *LOSSES)


@dataclass(frozen=True)
class Curve:
    """One run: `points` are the validations in order, with the entries of `COSTS` and `LOSSES` that are known."""

    arm: str
    seed: int
    points: list[dict[str, float]]


def compare(directories: Sequence[Path], out: Path) -> list[Curve]:
    """Write `curves.csv`, `curves.png` and `table.md` of the pre-trained models below `directories` into `out`.

    A directory is a model or a run of `lst run`. Models whose settings differ in nothing but the seed are one arm,
    named by what distinguishes it. Raises LstError if there are fewer than two models, or if they saw different data.
    """
    curves = read_curves(find_models(directories))
    with explain_os_errors(f"writing {out}"):
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / CURVES_FILE, curves_csv(curves))
        write_atomic(out / TABLE_FILE, markdown_table(curves))
        write_atomic(out / FIGURE_FILE, figure_png(curves))
    return curves


def find_models(directories: Iterable[Path]) -> list[Manifest]:
    """The pre-trained models among `directories`: models themselves, and those of runs."""
    found: list[Manifest] = []
    for directory in directories:
        inside = stage_manifests(directory).values() if (directory / RUN_FILE).is_file() else [load_manifest(directory)]
        found += [item for item in inside if item.stage == "pretrain"]
    if len(found) < 2:
        raise LstError(
            f"{len(found)} pre-trained models were found; a comparison needs two.",
            hint="Give directories of models, or of runs that pre-train several.",
        )
    first = found[0]
    for model in found:
        if {role: entry.id for role, entry in model.inputs.items()} != {
            role: entry.id for role, entry in first.inputs.items()
        }:
            raise LstError(
                f"{model.path} and {first.path} were trained on different data: their losses do not compare.",
                hint="lst manifest diff shows what differs.",
            )
    return found


def read_curves(models: Sequence[Manifest]) -> list[Curve]:
    """The held-out curve of each model, in order of arms and seeds."""
    settings = [{key: value for key, value in model.config.items() if key != "seed"} for model in models]
    differing = {path for other in settings for path, _, _ in differences(settings[0], other)}
    varied = sorted(differing, key=lambda path: (path != "patching.mode", path))
    curves = [
        Curve(_arm(config, varied), int(model.config.get("seed", 0)), _points(model))
        for model, config in zip(models, settings, strict=True)
    ]
    order = {arm: place for place, arm in enumerate(dict.fromkeys(curve.arm for curve in curves))}
    return sorted(curves, key=lambda curve: (order[curve.arm], curve.seed))


def _arm(config: Mapping[str, Any], varied: Sequence[str]) -> str:
    """What distinguishes a model: `static`, or `static, optimizer.lr 0.004` where more than one key varies."""
    parts = []
    for path in varied:
        value: Any = config
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        text = value if isinstance(value, str) else json.dumps(value)
        parts.append(text if path == "patching.mode" or len(varied) == 1 else f"{path} {text}")
    return ", ".join(parts) or "all"


def _points(model: Manifest) -> list[dict[str, float]]:
    totals: dict[str, float] = {}
    points = []
    lines = sorted(read_lines(model, "metrics.jsonl"), key=lambda line: (line["step"], line["split"] == "valid"))
    for line in lines:
        if line["split"] == "train":
            totals = {name: line["total"][name] for name in COSTS}
            continue
        point = {"step": line["step"], **totals}
        for name, (part, key) in LOSSES.items():
            value = line.get("sets", {}).get(part, {}).get(key)
            if value is not None:
                point[name] = value
        points.append(point)
    if not points:
        raise LstError(f"{model.path} has no validation in its metrics.jsonl.", hint="Set validate_every.")
    return points


def curves_csv(curves: Sequence[Curve]) -> str:
    """All points of all curves, a line each."""
    sink = io.StringIO()
    writer = csv.DictWriter(sink, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    for curve in curves:
        for point in curve.points:
            rounded = {key: f"{value:.6g}" if key in LOSSES else f"{value:.0f}" for key, value in point.items()}
            writer.writerow({"arm": curve.arm, "seed": curve.seed, **rounded})
    return sink.getvalue()


def summary(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """One entry per arm: seeds, costs at the end (means), and the last losses as (mean, standard deviation)."""
    rows = []
    for arm in dict.fromkeys(curve.arm for curve in curves):
        ends = [curve.points[-1] for curve in curves if curve.arm == arm]
        row: dict[str, Any] = {"arm": arm, "seeds": len(ends), "steps": statistics.fmean(end["step"] for end in ends)}
        row |= {name: statistics.fmean(end[name] for end in ends) for name in COSTS}
        for name in LOSSES:
            values = [end[name] for end in ends if name in end]
            if values:
                row[name] = (statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)
        rows.append(row)
    return rows


HEADINGS = (
    "arm",
    "seeds",
    "steps",
    "global units",
    "FLOPs",
    "units",
    "text tokens",
    "S→S bits/s",
    "T→T bits/token",
    "T→S bits/s",
    "S→T bits/token",
)


def markdown_table(curves: Sequence[Curve]) -> str:
    """A line per arm under `HEADINGS`; losses as mean ± standard deviation over seeds."""
    lines = [list(HEADINGS), ["---"] * len(HEADINGS)]
    for entry in summary(curves):
        cells = [entry["arm"], str(entry["seeds"]), f"{entry['steps']:.0f}", f"{entry['global_units']:,.0f}"]
        cells += [f"{entry['flops']:.3g}", f"{entry['units']:,.0f}", f"{entry['text_tokens']:,.0f}"]
        for name, digits in zip(LOSSES, (2, 3, 2, 3), strict=True):
            mean, spread = entry.get(name, (None, None))
            cells.append("" if mean is None else f"{mean:.{digits}f} ± {spread:.{digits}f}")
        lines.append(cells)
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def figure_png(curves: Sequence[Curve]) -> bytes:
    """Speech and text losses over global units and over FLOPs: the mean of each arm, its seeds as a band."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2, sharey="row")
    titles = {"speech_bits_per_second": "bits per second of speech", "text_bits_per_token": "bits per text token"}
    costs = {"global_units": "global units (patches and text tokens)", "flops": "FLOPs, everything counted"}
    for row, (loss, title) in enumerate(titles.items()):
        for column, (cost, label) in enumerate(costs.items()):
            axis = axes[row][column]
            for place, arm in enumerate(dict.fromkeys(curve.arm for curve in curves)):
                _draw(axis, [curve for curve in curves if curve.arm == arm], cost, loss, arm, f"C{place}")
            axis.set_xlabel(label)
            axis.grid(alpha=0.3)
            if column == 0:
                axis.set_ylabel(f"held out, {title}")
    axes[0][0].legend(frameon=False)
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=110, metadata={"Software": None})
    return sink.getvalue()


def _draw(axis: Any, curves: Sequence[Curve], cost: str, loss: str, label: str, colour: str) -> None:
    """One arm: seeds validate at the same steps, so their points are joined step by step."""
    by_step: dict[float, list[dict[str, float]]] = {}
    for curve in curves:
        for point in curve.points:
            if loss in point:
                by_step.setdefault(point["step"], []).append(point)
    steps = [points for points in by_step.values() if len(points) == len(curves)]
    x = [statistics.fmean(point[cost] for point in points) for points in steps]
    values = [[point[loss] for point in points] for points in steps]
    axis.plot(x, [statistics.fmean(each) for each in values], color=colour, label=label, marker=".")
    axis.fill_between(x, [min(each) for each in values], [max(each) for each in values], color=colour, alpha=0.15)
