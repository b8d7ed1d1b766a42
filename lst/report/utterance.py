"""One held-out utterance from sound to patches: waveform, words, units, both kinds of patches, drawn to one scale."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from lst.constants import FRAME_RATE, SAMPLE_RATE
from lst.data.interleaving import SpanConfig, Utterance, draw_spans
from lst.data.patching import PatchingConfig, patch_span
from lst.data.rows import utterance_of
from lst.errors import LstError
from lst.manifest import Manifest, iter_rows
from lst.report.html import Html, figure, join, note, quote, tag
from lst.report.run import Run
from lst.report.sound import player
from lst.report.svg import drawing, rectangle, ticks, words
from lst.report.training import patching_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

_Scale = Callable[[float], float]

_LEFT, _WIDTH = 112.0, 1080.0
_PLOT = _WIDTH - _LEFT
_WAVE = 96.0
_COLUMNS = 968
_SCAN = 20_000
"""Rows looked at for an utterance that shows well."""


def utterance_section(run: Run) -> Html:
    """The drawing, with the recording to listen to; a cursor follows it."""
    pairs, audio = run.first("lst.pairs"), run.first("lst.audio")
    if pairs is None:
        return note("No interleaved data in this run: there is no utterance to draw.")
    row = choose(pairs)
    if row is None:
        return note("No utterance to draw.")
    samples: NDArray[np.float32] | None = None
    missing = "No audio manifest in this run: the waveform is left out."
    if audio is not None:
        try:
            samples = _samples(audio, row["id"])
        except LstError as error:
            missing = f"No waveform: {error}"
    said = tag("p", quote(row["text"]), tag("br"), tag("span", row["id"], class_="faint"))
    utterance = utterance_of(row)
    model = run.pretrained()
    patching = patching_of(model)
    svg, counts = _draw(utterance, [word["text"] for word in row["words"]], samples, patching, _spans(model))
    sound = player(samples) if samples is not None else note(missing)
    # The cursor moves in the drawing's own units: so many per second.
    scale = _PLOT * FRAME_RATE / max(1, len(utterance.units))
    held_out = "" if row["split"] == "valid" else " It was not held out: this run holds out no utterance that fits."
    caption = (
        f"{counts} Every colour in the strip of units is one of the 501 units. Along words, silence (grey) is a patch "
        "of its own. The last row is what training makes of it in one epoch: some words stay speech, the others become "
        f"text.{held_out}"
    )
    return join([said, figure([sound, svg], caption, data_scale=scale)])


def choose(pairs: Manifest) -> dict[str, Any] | None:
    """The first held-out utterance of 3 to 7 seconds and 6 words or more, else the one that comes nearest to it."""
    best, best_rank = -1, 4
    for place, row in enumerate(iter_rows(pairs, ["duration_s", "split", "words"])):
        if place >= _SCAN:
            break
        shows_well = 3 <= row["duration_s"] <= 7 and len(row["words"]) >= 6
        rank = 2 * (row["split"] != "valid") + (not shows_well)
        if rank < best_rank:
            best, best_rank = place, rank
        if rank == 0:
            break
    return next((row for place, row in enumerate(iter_rows(pairs)) if place == best), None)


def _samples(audio: Manifest, row_id: str) -> "NDArray[np.float32]":
    from lst.audio import open_row_audio

    for row in iter_rows(audio):
        if row["id"] == row_id:
            return open_row_audio(audio, row)
    raise LstError(f"{row_id} is not in the audio manifest.")


def _spans(model: Manifest | None) -> tuple[SpanConfig, int]:
    """How the model's training data was cut, and with which seed."""
    settings = {} if model is None else model.config
    try:
        return SpanConfig.model_validate(settings.get("spans") or {}), int(settings.get("seed", 0))
    except ValueError:
        return SpanConfig(), 0


def _draw(
    utterance: Utterance,
    texts: Sequence[str],
    samples: "NDArray[np.float32] | None",
    patching: PatchingConfig,
    spans: tuple[SpanConfig, int],
) -> tuple[Html, str]:
    """The drawing, and a sentence that counts what is in it."""
    frames = max(1, len(utterance.units))

    def x(frame: float) -> float:
        return _LEFT + frame / frames * _PLOT

    parts: list[Html] = []
    y = 6.0
    if samples is not None:
        parts += _waveform(samples, y, frames)
        y += _WAVE + 8
    top = 6.0
    parts += _words(utterance, texts, x, y, top)
    y += 46
    parts += [_name("units", y + 15), *_units(utterance.units, x, y)]
    y += 34
    plain = patching.model_copy(update={"perturb": 0})
    lengths = {}
    for kind, label in (("static", f"static, {patching.size} units"), ("aligned", "along words")):
        found, _ = patch_span(
            "static" if kind == "static" else "aligned",
            len(utterance.units),
            plain,
            starts=utterance.starts,
            ends=utterance.ends,
        )
        lengths[kind] = found
        parts += [_name(label, y + 15), *_patches(found, utterance, x, y, colour=1 if kind == "static" else 3)]
        y += 34
    parts += [_name("one epoch", y + 15), *_interleaved(utterance, texts, spans, x, y)]
    y += 30
    for second in ticks(0.0, frames / FRAME_RATE, 8):
        at = x(second * FRAME_RATE)
        parts.append(tag("line", x1=at, x2=at, y1=y, y2=y + 5, class_="axis"))
        parts.append(words(at, y + 19, f"{second:g} s", anchor="middle"))
    parts.append(tag("line", x1=x(0), x2=x(frames), y1=y, y2=y, class_="axis"))
    parts.append(tag("line", x1=_LEFT, x2=_LEFT, y1=top, y2=y, class_="cursor"))
    counts = ", ".join(
        f"{len(found)} {what} ({frames / max(1, len(found)):.1f} units each)"
        for what, found in (("static patches", lengths["static"]), ("patches along words", lengths["aligned"]))
    )
    label = "An utterance: waveform, words, units, patches"
    return drawing(_WIDTH, y + 24, parts, label=label), f"{utterance.num_words} words, {frames} units, {counts}."


def _name(text: str, y: float) -> Html:
    return words(_LEFT - 12, y, text, anchor="end")


def _waveform(samples: "NDArray[np.float32]", y: float, frames: int) -> list[Html]:
    """The envelope: lowest and highest sample of each column, on the scale of the units (640 samples each)."""
    middle = y + _WAVE / 2
    per_column = frames * SAMPLE_RATE / FRAME_RATE / _COLUMNS
    edges = np.minimum((np.arange(_COLUMNS + 1) * per_column).astype(int), max(0, len(samples) - 1))
    loudest = float(np.abs(samples).max()) if len(samples) else 0.0
    scale = _WAVE / 2 / (loudest or 1.0)
    padded = np.append(samples, np.float32(0))
    high = np.maximum.reduceat(padded, edges)[:-1] * scale
    low = np.minimum.reduceat(padded, edges)[:-1] * scale
    step = _PLOT / _COLUMNS
    upper = [f"{_LEFT + k * step:.1f},{middle - value - 0.4:.1f}" for k, value in enumerate(high)]
    lower = [f"{_LEFT + k * step:.1f},{middle - value + 0.4:.1f}" for k, value in enumerate(low)]
    return [_name("waveform", middle + 4), tag("polygon", points=" ".join([*upper, *reversed(lower)]), class_="wave")]


def _words(utterance: Utterance, texts: Sequence[str], x: _Scale, y: float, top: float) -> list[Html]:
    """A band behind each word, and its text below; texts that would touch go to a second line."""
    parts = [_name("words", y + 15)]
    ends = [-1e9, -1e9]
    for start, end, text in zip(utterance.starts.tolist(), utterance.ends.tolist(), texts, strict=True):
        left, right = x(start), x(end)
        parts.append(rectangle(left, top, right - left - 1, y - top + 3, "spoken", f"{text}: {_span(start, end)}"))
        middle, half = (left + right) / 2, 3.4 * len(text)
        line = next((k for k in (0, 1) if middle - half > ends[k] + 4), None)
        if line is not None:
            ends[line] = middle + half
            parts.append(words(middle, y + 15 + 16 * line, text, anchor="middle", class_="word"))
    return parts


def _span(start: int, end: int) -> str:
    return f"{start / FRAME_RATE:.2f} to {end / FRAME_RATE:.2f} s, {end - start} units"


def _units(units: "NDArray[np.uint16]", x: _Scale, y: float) -> list[Html]:
    """Runs of the same unit as one box; the hue tells units apart (the golden angle keeps neighbours far apart)."""
    parts = []
    edges = [0, *(np.flatnonzero(np.diff(units)) + 1).tolist(), len(units)]
    for start, end in pairwise(edges):
        if end > start:
            unit = int(units[start])
            colour = f"hsl({unit * 137.508 % 360:.0f} 52% {46 + unit % 3 * 8}%)"
            hint = f"unit {unit}{f', {end - start} times' if end - start > 1 else ''}"
            parts.append(rectangle(x(start), y, x(end) - x(start) - 0.6, 21, "unit", hint, fill=colour))
    return parts


def _patches(lengths: "NDArray[np.int32]", utterance: Utterance, x: _Scale, y: float, *, colour: int) -> list[Html]:
    """Boxes with their lengths; along words, silence is grey."""
    parts = []
    spoken = set(utterance.starts.tolist())
    start = 0
    for place, length in enumerate(lengths.tolist()):
        left, wide = x(start), x(start + length) - x(start)
        silence = colour == 3 and start not in spoken
        shade = "fill5 quiet" if silence else f"fill{colour}{' odd' if place % 2 else ''}"
        what = "silence, " if silence else ""
        parts.append(rectangle(left, y, wide - 1.2, 21, shade, f"{what}{_span(start, start + length)}", rx=2.0))
        if wide > 15 and not silence:
            parts.append(words(left + wide / 2 - 0.6, y + 15, length, anchor="middle", class_="inside"))
        start += length
    return parts


def _interleaved(
    utterance: Utterance, texts: Sequence[str], spans: tuple[SpanConfig, int], x: _Scale, y: float
) -> list[Html]:
    """Which words stay speech and which become text in epoch 0."""
    config, seed = spans
    parts = []
    for span in draw_spans(utterance.num_words, config, seed, 0, utterance.id):
        if span.speech:
            start, end = utterance.unit_range(span.first, span.last)
        else:
            start, end = int(utterance.starts[span.first]), int(utterance.ends[span.last - 1])
        said = " ".join(texts[span.first : span.last])
        name, colour = ("speech", 1) if span.speech else ("text", 2)
        wide = x(end) - x(start)
        parts.append(rectangle(x(start), y, wide - 1.2, 21, f"fill{colour}", f"{name}: {said}", rx=2.0))
        if wide > 50:
            parts.append(words(x(start) + wide / 2, y + 15, name, anchor="middle", class_="inside"))
    return parts
