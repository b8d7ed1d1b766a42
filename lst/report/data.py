"""What training reads: alignment, lengths of patches, and the mixture it asked for beside the one it got."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np

from lst.constants import FRAME_RATE
from lst.data.patching import PatchingConfig, static_patches
from lst.errors import LstError
from lst.manifest import Manifest, open_input
from lst.report.html import Html, figure, join, note, number, percent, table, tag
from lst.report.run import Run, read_json
from lst.report.svg import Part, histograms, stacked_bars
from lst.report.training import patching_of

REPORT_FILE = "report.json"
BINS = 30
MAX_UTTERANCES = 20_000
MAX_ROWS = 400
"""Packed rows of the training stream that are read again to count what comes from which source."""


def alignment_section(run: Run) -> Html:
    """How much of the speech got words, and the aligner's own report."""
    aligned = run.first("lst.aligned")
    if aligned is None:
        return note("No alignment in this run.")
    rejected = sum(aligned.rejected.values())
    rows = [
        ["utterances aligned", f"{aligned.rows:,} of {aligned.rows + rejected:,}"],
        *([name, number(value)] for name, value in aligned.totals.items() if name != "rows"),
        *([f"rejected: {reason}", number(count)] for reason, count in aligned.rejected.items()),
    ]
    parts = [table(["", ""], rows)]
    if REPORT_FILE in aligned.artifacts:
        body = {key: value for key, value in read_json(aligned, REPORT_FILE).items() if key not in aligned.totals}
        parts.append(tag("div", _facts(body), class_="facts"))
    else:
        parts.append(note("The aligner wrote no report of its own."))
    return join(parts)


def _facts(body: dict[str, Any]) -> list[Html]:
    """Any JSON object as tables: its plain values in one, every object in one of its own."""
    plain = [[_spaced(key), number(value)] for key, value in body.items() if not isinstance(value, dict | list)]
    parts = [table(["", ""], plain)] if plain else []
    for key, value in body.items():
        if isinstance(value, list):
            value = {str(place): item for place, item in enumerate(value)}
        if isinstance(value, dict) and value:
            rows = [
                [_spaced(name), number(item) if not isinstance(item, dict | list) else str(item)]
                for name, item in islice(value.items(), 40)
            ]
            parts.append(tag("div", tag("h3", _spaced(key)), table(["", ""], rows)))
    return parts


def _spaced(key: object) -> str:
    return str(key).replace("_", " ")


def patches_section(run: Run) -> Html:
    """Histograms of the lengths of words, silences and static patches."""
    pairs = run.first("lst.pairs")
    if pairs is None:
        return note("No interleaved data in this run: there are no patches to measure.")
    patching = patching_of(run.pretrained())
    lengths, utterances = measure_lengths(pairs, patching)
    if not utterances:
        return note("The interleaved data is empty.")
    names = {"words": "Words", "silence": "Silence between words", "static": f"Static patches of {patching.size}"}
    groups = []
    rows: list[list[str]] = []
    total = max(1, int(lengths["static"].sum()))
    for place, (kind, found) in enumerate(lengths.items()):
        shares = np.bincount(np.minimum(found, BINS), minlength=BINS + 1)[1:] / max(1, len(found))
        groups.append((names[kind], shares.tolist(), (3, 4, 1)[place]))
        mean, middle = (float(found.mean()), float(np.median(found))) if len(found) else (0.0, 0.0)
        share = percent(int(found.sum()) / total)
        rows.append([names[kind], number(len(found)), f"{mean:.2f}", f"{middle:g}", f"{40 * mean:.0f} ms", share])
    chart = histograms(groups, title="Lengths of patches", x_label="units per patch", last=f"{BINS}+")
    counted = f"All {utterances:,}" if utterances == pairs.rows else f"The first {utterances:,}"
    return join(
        [
            figure(chart, f"{counted} utterances. A unit lasts 40 ms."),
            table(["", "patches", "mean units", "median", "mean length", "of the speech"], rows),
        ]
    )


def measure_lengths(pairs: Manifest, patching: PatchingConfig) -> tuple[dict[str, "np.ndarray[Any, Any]"], int]:
    """Lengths in units of all words, silences and static patches of at most `MAX_UTTERANCES` utterances."""
    from lst.data.loader import iter_utterances

    found: dict[str, list[np.ndarray[Any, Any]]] = {"words": [], "silence": [], "static": []}
    count = 0
    for row in islice(iter_utterances(pairs, split=None), MAX_UTTERANCES):
        count += 1
        edges = np.concatenate(([0], np.stack((row.starts, row.ends), axis=1).ravel(), [len(row.units)]))
        gaps = edges[1::2] - edges[::2]
        found["words"].append(row.ends - row.starts)
        found["silence"].append(gaps[gaps > 0])
        found["static"].append(static_patches(len(row.units), patching.size)[0])
    empty = np.empty(0, dtype=np.int32)
    return {kind: np.concatenate([empty, *parts]).astype(np.int64) for kind, parts in found.items()}, count


def mixture_section(run: Run) -> Html:
    """Shares of speech and text as asked for and as read: by source, in original tokens, and in steps of the model."""
    model = run.pretrained()
    if model is None:
        return note("No pre-training in this run: nothing was mixed.")
    utterances, documents, both = "interleaved utterances", "text documents", ("speech", "text")
    asked = model.config.get("mixture") or {}
    bars = [("asked for", [Part(utterances, asked.get("speech", 0), 1), Part(documents, asked.get("text", 0), 2)])]
    parts: list[Html] = []
    caption = ""
    try:
        read, rows, whole = read_again(model)
    except LstError as error:
        parts.append(note(f"The training data cannot be read again, so its sources are not counted. {error}"))
    else:
        speech, text = (_original(read["sources"].get(name, {})) for name in both)
        bars.append(("read", [Part(utterances, speech, 1), Part(documents, text, 2)]))
        counted = f"all {rows:,}" if whole else f"the first {rows:,}"
        caption = f"“Read” is counted over {counted} packed rows of training, in original tokens. "
    totals = model.totals
    if {"units", "text_tokens"} <= set(totals):
        bars.append(("original tokens", [Part("speech", totals["units"], 3), Part("text", totals["text_tokens"], 4)]))
        caption += "Original tokens are speech units and text pieces before patching. "
    if {"global_units", "speech_patches"} <= set(totals):
        text_steps = totals["global_units"] - totals["speech_patches"]
        bars.append(("global steps", [Part("speech", totals["speech_patches"], 3), Part("text", text_steps, 4)]))
        caption += "Steps of the global transformer are speech patches, text pieces and markers (counted as text)."
    return join([*parts, figure(stacked_bars(bars, title="The mixture"), caption), _read_in_all(totals)])


def _read_in_all(totals: Mapping[str, float]) -> Html | None:
    """Numbers of the whole training, as far as the model's manifest has them."""
    units, patches = totals.get("units"), totals.get("speech_patches")
    rows = []
    if units is not None:
        rows.append(["hours of speech read, repeats included", f"{units / FRAME_RATE / 3600:,.2f}"])
        if patches:
            rows.append(["units per speech patch", f"{units / patches:.2f}"])
        original = units + totals.get("text_tokens", 0)
        if original and "global_units" in totals:
            rows.append(["global steps per original token", f"{totals['global_units'] / original:.3f}"])
    return table(["", ""], rows) if rows else None


def _original(tally: Mapping[str, Any]) -> float:
    return float(tally.get("units", 0) + tally.get("text_tokens", 0))


def read_again(model: Manifest) -> tuple[dict[str, Any], int, bool]:
    """What the first packed rows of a model's training stream held: `Mixture.report()`, how many, whether all.

    The stream is a function of the data and the settings, so this is what training read. Raises LstError if the data
    is not there any more.
    """
    from lst.data.interleaving import SpanConfig
    from lst.data.loader import open_stream
    from lst.data.mixture import MixtureConfig
    from lst.data.stream import DataConfig, Horizon
    from lst.data.unit_bpe import UnitBpe

    config = model.config
    mixture = MixtureConfig.model_validate(config["mixture"])
    patching = PatchingConfig.model_validate(config["patching"])
    data = DataConfig(
        budget=config["batch"]["sequence_units"],
        seed=config["seed"],
        mixture=mixture,
        spans=SpanConfig.model_validate(config["spans"]),
    )
    trained = max(1, round(model.totals["steps"] * config["batch"]["rows"]))
    stream = open_stream(
        open_input(model, "pairs") if mixture.speech else None,
        open_input(model, "text") if mixture.text else None,
        data,
        patching,
        horizon=Horizon(trained),
        unit_bpe=UnitBpe(model.file("unit_bpe.model").read_bytes()) if patching.mode == "bpe" else None,
    )
    rows = sum(1 for _ in islice(stream, min(trained, MAX_ROWS)))
    return stream.mixture.report(), rows, rows == trained
