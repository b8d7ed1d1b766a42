"""The figures of `docs/results.md`, as PNG."""

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from runs import Found, Run
from special import size_lines
from tables import SECTIONS

from lst.evaluate.word_embeddings import FIGURE_FILE

Draw = Callable[[Any, str], None]
AXES = {"speech": "bits per second of speech", "text": "bits per text token"}
X = {"flops": "FLOPs, everything counted", "global_units": "global units (patches and text tokens)"}
COLOURS = 10
"""Of matplotlib's cycle; from there on lines are dashed."""
CURVES = (
    ("losses.png", "Held-out losses during training over FLOPs", "Table 3, equal FLOPs", "flops"),
    (
        "why.png",
        "Held-out losses with other local modules, over FLOPs",
        "Why: other local modules, equal FLOPs",
        "flops",
    ),
    ("first.png", "Held-out losses at a tenth of the budget, over FLOPs", "First look", "flops"),
    (
        "quarter.png",
        "Held-out losses during training over global units, as the paper counts",
        "Table 3, equal global units",
        "global_units",
    ),
)


def figures(found: Found) -> dict[str, tuple[str, bytes]]:
    """Figures for which there are runs: file name -> title and PNG."""
    made = {}
    ended = _ended(found)
    if ended:
        made["bits.png"] = (
            "Held-out losses of finished runs over FLOPs, all counted: a point is a run whose schedule has ended, "
            "a line joins those of seed 0",
            _two_axes("flops", lambda axis, loss: _ends(axis, ended, loss)),
        )
    for name, title, table, x in CURVES:
        about = next(section for section in SECTIONS if section.title == table)
        arms = {arm: [run for run in found.arm(arm, about.tier) if run.curve] for arm in about.arms}
        if any(arms.values()):
            draw = partial(_curves, {arm: runs for arm, runs in arms.items() if runs}, x)
            made[name] = (f"{title}: the mean of an arm, its seeds thin beside it", _two_axes(x, draw))
    if any(run.tier == "size" for run in found.runs):
        made["figure4.png"] = (
            "Figure 4: losses of four sizes over FLOPs, with the fitted lines",
            _two_axes("flops", lambda axis, loss: _sizes(axis, found, loss)),
        )
    if (words := found.stages.get("quarter-aligned-0-words")) is not None:
        title = "Figure 5: patch embeddings of words by one aligned model, laid out by t-SNE; a colour is a word"
        made["figure5.png"] = (title, words.file(FIGURE_FILE).read_bytes())
    return made


def _ended(found: Found) -> dict[str, list[Run]]:
    """Runs of an arm whose schedule has ended, at several budgets: of the sweep those with the rate that is used."""
    rates = {run.arm: run.lr for run in found.runs if run.tier in ("quarter", "first", "")}
    arms: dict[str, list[Run]] = {}
    for run in found.runs:
        if run.tier in ("", "first") or (run.tier == "sweep" and run.lr == rates.get(run.arm)):
            arms.setdefault(run.arm, []).append(run)
    return {arm: runs for arm, runs in arms.items() if any(run.tier != "sweep" for run in runs)}


def _ends(axis: Any, arms: dict[str, list[Run]], loss: str) -> None:
    for place, (arm, runs) in enumerate(arms.items()):
        points = sorted((run.costs["flops"], run.losses[loss], run.seed) for run in runs if loss in run.losses)
        first = [(flops, value) for flops, value, seed in points if seed == 0]
        style = "-" if place < COLOURS else "--"
        axis.plot(*zip(*first, strict=True), color=f"C{place}", label=arm, linestyle=style)
        everyone = [(flops, value) for flops, value, _ in points]
        axis.plot(*zip(*everyone, strict=True), marker="o", markersize=4, linestyle="", color=f"C{place}")


def _curves(arms: dict[str, list[Run]], x: str, axis: Any, loss: str) -> None:
    for place, (arm, runs) in enumerate(arms.items()):
        lines = [[(point[x], point[loss]) for point in run.curve if loss in point] for run in runs]
        lines = [line for line in lines if line]
        if not lines:
            continue
        for line in lines:
            axis.plot(*zip(*line, strict=True), color=f"C{place}", linewidth=0.6, alpha=0.4)
        # Seeds of an arm are validated after the same steps, but a budget in FLOPs may end a step earlier or later.
        shared = min(len(line) for line in lines)
        mean = np.mean([line[: shared - 1] + line[-1:] for line in lines], axis=0)
        axis.plot(*mean.T, color=f"C{place}", label=arm)


def _sizes(axis: Any, found: Found, loss: str) -> None:
    from matplotlib.ticker import ScalarFormatter

    lines = size_lines(found, loss)
    for place, arm in enumerate(("base", "static")):
        runs = [run for run in found.runs if run.tier == "size" and run.arm.startswith(f"{arm}-")]
        points = sorted((run.costs["flops"], run.losses[loss]) for run in runs if loss in run.losses)
        label = arm
        if arm in lines:
            line = lines[arm]
            label = f"{arm}: slope {line.slope:.3f} ± {line.error:.3f}"
            ends = np.array([line.x.min(), line.x.max()])
            axis.plot(10**ends, 10 ** (line.intercept + line.slope * ends), color=f"C{place}")
        if points:
            axis.plot(*zip(*points, strict=True), marker="o", linestyle="", color=f"C{place}", label=label)
    axis.set_yscale("log")
    for name in ("major", "minor"):
        getattr(axis.yaxis, f"set_{name}_formatter")(ScalarFormatter())
    axis.legend(frameon=False)


def _two_axes(x: str, draw: Draw) -> bytes:
    """Speech on the left, text on the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (loss, label) in zip(figure.subplots(1, 2), AXES.items(), strict=True):
        draw(axis, loss)
        axis.set_xscale("log")
        axis.set_xlabel(X[x])
        axis.set_ylabel(f"held out, {label}")
        axis.grid(alpha=0.3)
        if axis.get_legend() is None and loss == "text":
            axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=110, metadata={"Software": None})
    return sink.getvalue()
