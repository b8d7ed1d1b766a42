"""The figures of `docs/results.md`, as PNG."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from runs import Found, Run
from special import size_lines

Draw = Callable[[Any, str], None]
AXES = {"speech": "bits per second of speech", "text": "bits per text token"}
X = {"flops": "FLOPs, everything counted", "global_units": "global units (patches and text tokens)"}


def figures(found: Found) -> dict[str, tuple[str, bytes]]:
    """Figures for which there are runs: file name -> title and PNG."""
    made = {}
    ended = _ended(found)
    if ended:
        made["bits.png"] = (
            "Held-out losses of finished runs over FLOPs, all counted: a point is a run whose schedule has ended, "
            "a line joins the means of an arm",
            _two_axes("flops", lambda axis, loss: _ends(axis, ended, loss)),
        )
    for name, title, tiers, x in (
        ("losses.png", "Held-out losses during training over FLOPs; each line is a seed", ("",), "flops"),
        ("first.png", "The same at a tenth of the budget", ("first",), "flops"),
        (
            "quarter.png",
            "Held-out losses during training over global units, as the paper counts",
            ("quarter",),
            X_PAPER,
        ),
    ):
        runs = [run for run in found.runs if run.tier in tiers and run.curve]
        if runs:
            made[name] = (title, _two_axes(x, lambda axis, loss, runs=runs, x=x: _curves(axis, runs, x, loss)))  # type: ignore[misc]
    if any(run.tier == "size" for run in found.runs):
        made["figure4.png"] = (
            "Figure 4: losses of four sizes over FLOPs, with the fitted lines",
            _two_axes("flops", lambda axis, loss: _sizes(axis, found, loss)),
        )
    return made


X_PAPER = "global_units"


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
        points: dict[str, list[tuple[float, float]]] = {}
        for run in runs:
            if loss in run.losses:
                points.setdefault(run.tier, []).append((run.costs["flops"], run.losses[loss]))
        means = sorted(tuple(np.mean(some, axis=0)) for some in points.values())
        axis.plot(*zip(*means, strict=True), color=f"C{place}", label=arm)
        everyone = [point for some in points.values() for point in some]
        axis.plot(*zip(*everyone, strict=True), marker="o", markersize=4, linestyle="", color=f"C{place}")


def _curves(axis: Any, runs: Sequence[Run], x: str, loss: str) -> None:
    for place, arm in enumerate(dict.fromkeys(run.arm for run in runs)):
        some = [run for run in runs if run.arm == arm]
        for number, run in enumerate(some):
            points = [(point[x], point[loss]) for point in run.curve if loss in point]
            style = {"color": f"C{place % 10}", "linestyle": "-" if place < 10 else "--", "linewidth": 1}
            axis.plot(*zip(*points, strict=True), marker=".", label=None if number else arm, **style)


def _sizes(axis: Any, found: Found, loss: str) -> None:
    lines = size_lines(found, loss) or {}
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
        if axis.get_legend() is None and loss == "speech":
            axis.legend(frameon=False, fontsize=8)
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=110, metadata={"Software": None})
    return sink.getvalue()
