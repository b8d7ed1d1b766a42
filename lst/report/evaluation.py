"""Scores: the story cloze with its intervals, held-out losses, and any other evaluation by its totals."""

from typing import Any

from lst.evaluate.losses import DIRECTIONS
from lst.manifest import Manifest
from lst.report.html import Html, figure, join, note, number, percent, table, tag
from lst.report.run import Run, read_json
from lst.report.svg import Interval, intervals
from lst.report.words import word_parts

SUMMARY_FILE = "summary.json"

_MODES = {
    "s-s": "speech → speech",
    "t-t": "text → text",
    "s-t": "speech → text",
    "t-s": "text → speech",
    "heard": "speech → speech, by way of text",
}
_SETS = {
    "speech": "held-out utterances, as speech",
    "transcript": "the same utterances, as text",
    "interleaved": "the same utterances, interleaved",
    "text": "held-out documents",
}


def evaluation_section(run: Run) -> Html:
    """Every evaluation of the run."""
    scores = run.of_schema("lst.eval")
    if not scores:
        return note("No evaluation in this run.")
    parts: list[Html] = []
    for name, manifest in scores.items():
        parts.append(tag("h3", name))
        summary = read_json(manifest, SUMMARY_FILE) if SUMMARY_FILE in manifest.artifacts else {}
        parts += _parts(manifest, summary) or [_totals(manifest)]
    return join(parts)


def _parts(manifest: Manifest, summary: dict[str, Any]) -> list[Html]:
    """One result, or each of `lst eval all`; empty for a kind this page has no picture of."""
    if summary.get("modes"):
        return _choices(summary)
    if manifest.stage == "eval-losses" and summary:
        return _losses(summary)
    if manifest.stage == "eval-words" and summary:
        return word_parts(manifest, summary)
    parts: list[Html] = []
    for name, body in summary.get("benchmarks", {}).items():
        parts += [tag("h4", name), *_choices(body)]
    if summary.get("losses"):
        parts += [tag("h4", "held-out losses"), *_losses(summary["losses"])]
    for name, why in summary.get("missing", {}).items() if parts else ():
        parts.append(note(f"Left out: {name}: {why}"))
    return parts


def _choices(summary: dict[str, Any]) -> list[Html]:
    modes = summary["modes"]
    rows = [
        Interval(_MODES.get(mode, mode), body["accuracy"], body["low"], body["high"], body.get("chance", 0.5))
        for mode, body in modes.items()
    ]
    confidence = f"{summary.get('confidence', 0.95):.0%}"
    benchmark = str(summary.get("benchmark", "benchmark"))
    told = f"Accuracy with its {confidence} bootstrap interval; the broken line is guessing. Prompt → ending."
    variants = list(dict.fromkeys(name for body in modes.values() for name in body.get("variants", {})))
    cells = []
    for mode, body in modes.items():
        every = body.get("variants", {})
        cells.append(
            [
                _MODES.get(mode, mode),
                body.get("headline", ""),
                number(body["n"]),
                *(percent(every[name]["accuracy"]) if name in every else "" for name in variants),
                body.get("note", ""),
            ]
        )
    parts = [
        figure(intervals(rows, title=benchmark, x_label="accuracy"), told),
        table(["prompt → ending", "headline", "items", *variants, ""], cells, text_columns=2),
    ]
    if summary.get("protocol"):
        parts.append(tag("p", f"Protocol: {summary['protocol']}.", class_="lead"))
    if summary.get("missing_modes"):
        parts.append(note(f"Not in this benchmark: {', '.join(summary['missing_modes'])}."))
    if summary.get("rejected"):
        reasons = ", ".join(f"{count} {reason}" for reason, count in summary["rejected"].items())
        parts.append(note(f"Rejected items: {reasons}."))
    return parts


def _losses(summary: dict[str, Any]) -> list[Html]:
    rows = [
        [
            _SETS.get(name, name),
            _bits(body.get("speech_bits_per_second")),
            _bits(body.get("text_bits_per_token")),
            number(body.get("documents", "")),
            f"{body.get('seconds', 0.0):,.0f}",
            number(body.get("text_tokens", "")),
        ]
        for name, body in summary["sets"].items()
    ]
    head = ["", "bits per second of speech", "bits per text token", "documents", "seconds of speech", "text tokens"]
    parts = [table(head, rows)]
    directions = [
        [_SETS.get(name, name), *(_bits(body.get(key)) for key in DIRECTIONS.values())]
        for name, body in summary["sets"].items()
        if any(key in body for key in DIRECTIONS.values())
    ]
    if directions:
        units = ["bits per second" if key.endswith("second") else "bits per token" for key in DIRECTIONS.values()]
        head = [f"{direction}, {unit}" for direction, unit in zip(DIRECTIONS, units, strict=True)]
        parts += [table(["", *head], directions), note("Directions: what the document held before, then the target.")]
    if summary.get("missing"):
        parts.append(note(f"Nothing was held out of: {', '.join(summary['missing'])}."))
    return parts


def _bits(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else ""


def _totals(manifest: Manifest) -> Html:
    if not manifest.totals:
        return note("It says nothing of its results.")
    return table(["", ""], [[name, number(value)] for name, value in manifest.totals.items()])
