"""How training went: losses and patch lengths over the steps, from each model's `metrics.jsonl`."""

from collections.abc import Mapping, Sequence
from typing import Any

from lst.data.patching import PatchingConfig
from lst.manifest import Manifest
from lst.report.html import Html, figure, join, note, number, table, tag
from lst.report.run import Run, read_lines
from lst.report.svg import Point, Series, line_chart

METRICS_FILE = "metrics.jsonl"

Lines = Sequence[Mapping[str, Any]]

_LOSSES = (
    ("speech_bits_per_second", "Speech: bits per second"),
    ("text_bits_per_token", "Text: bits per token"),
)


def training_section(run: Run) -> Html:
    """Curves of every model of the run."""
    models = run.of_schema("lst.model")
    if not models:
        return note("No model in this run.")
    return join([part for name, manifest in models.items() for part in _model(name, manifest)])


def _model(name: str, manifest: Manifest) -> list[Html]:
    parts = [tag("h3", name), tag("p", _size(manifest), class_="lead")]
    if METRICS_FILE not in manifest.artifacts:
        return [*parts, note(f"{name} has no {METRICS_FILE}: there are no curves to draw.")]
    lines = list(read_lines(manifest, METRICS_FILE))
    train = [line for line in lines if line.get("split") == "train"]
    valid = [line for line in lines if line.get("split") == "valid"]
    charts = [chart for key, title in _LOSSES if (chart := _losses(train, valid, key, title)) is not None]
    if not charts:
        charts = [chart for chart in [_losses(train, valid, "loss", "Loss: nats per token")] if chart is not None]
    if charts:
        caption = "Means over the steps between two lines of the log. Held out: static patches, as at inference."
        parts.append(figure(tag("div", charts, class_="pair"), caption))
    else:
        parts.append(note(f"{name}: its log holds no losses."))
    summary = _first_and_last(train, valid)
    if summary:
        parts.append(table(["", "first", "last", "held out, first", "held out, last"], summary))
    if manifest.stage == "pretrain":
        parts.append(_patch_lengths(manifest, train))
    return parts


def _size(manifest: Manifest) -> str:
    totals = manifest.totals
    said = []
    for key, what in (
        ("parameters", "parameters"),
        ("steps", "steps"),
        ("units", "units read"),
        ("text_tokens", "text tokens read"),
    ):
        if key in totals:
            said.append(f"{number(totals[key])} {what}")
    return ", ".join(said) + "." if said else ""


def _points(lines: Lines, key: str) -> list[Point]:
    return [(line["step"], line[key]) for line in lines if _is_number(line.get("step")) and _is_number(line.get(key))]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _losses(train: Lines, valid: Lines, key: str, title: str) -> Html | None:
    held_out = _points(valid, key)
    series = [Series("training", _points(train, key), 1), Series("held out", held_out, 2, dots=len(held_out) <= 40)]
    return line_chart(series, title=title, x_label="step")


def _first_and_last(train: Lines, valid: Lines) -> list[list[str]]:
    rows = []
    for key, title in (*_LOSSES, ("loss", "Loss: nats per token")):
        seen, held_out = _points(train, key), _points(valid, key)
        if seen or held_out:
            ends = [points[place][1] if points else None for points in (seen, held_out) for place in (0, -1)]
            rows.append([title, *("" if value is None else f"{value:.3f}" for value in ends)])
    return rows


def _patch_lengths(manifest: Manifest, train: Lines) -> Html:
    points = _points(train, "patch_length")
    patching = _patching(manifest)
    marks: list[tuple[float, str]] = []
    told = f"Patching: {patching.mode}." if patching else ""
    steps = manifest.totals.get("steps")
    if patching is not None and patching.mode == "curriculum" and steps:
        marks = [(patching.tau1 * steps, "aligned"), (patching.tau2 * steps, "mixed"), (steps, "static")]
        told = (
            f"The curriculum: patches along words up to step {number(round(marks[0][0]))}, then fewer and fewer, "
            f"runs of {patching.size} units only from step {number(round(marks[1][0]))} on."
        )
    chart = line_chart(
        [Series("units per patch", points, 3)],
        title="Units per speech patch",
        x_label="step",
        marks=marks,
        from_zero=True,
        width=1080,
        height=230,
    )
    if chart is None:
        return note("The log says nothing of patch lengths.")
    return figure(chart, f"{told} A unit lasts 40 ms.")


def _patching(manifest: Manifest) -> PatchingConfig | None:
    """How the model was patched in training, if its manifest says so in a way this version understands."""
    try:
        return PatchingConfig.model_validate(manifest.config.get("patching"))
    except ValueError:
        return None


def patching_of(manifest: Manifest | None) -> PatchingConfig:
    """The patching of a pre-trained model; the default where there is none."""
    found = None if manifest is None else _patching(manifest)
    return found or PatchingConfig()
