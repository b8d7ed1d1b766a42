"""The layout of lst's own: a JSON object per line.

    {"id", "context", "right", "wrong"}               text, or audio paths; and/or {"context_audio", "right_audio", …}
    {"id", "context", "choices": […], "label": 0}     two or more endings; "choices_audio" beside or instead
    "group", "category"                               optional, see `SourceItem`

Without "context" and "context_audio" the choices are whole utterances, compared as they are.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lst.evaluate.readers.source import AUDIO_SUFFIXES, Source, SourceItem, read_lines
from lst.manifest import Rejection


def json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any] | Rejection]]:
    """(`line 7`, its object) for every line that is not blank; what is not an object comes as a rejection."""
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        place = f"line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            yield place, Rejection(place, "bad-row", f"not JSON: {error}")
            continue
        yield place, row if isinstance(row, dict) else Rejection(place, "bad-row", "not a JSON object")


def read_jsonl(path: Path) -> Source:
    """Items of a `.jsonl` file; audio paths are relative to it."""
    items: list[SourceItem] = []
    rejected: list[Rejection] = []
    for place, row in json_rows(path):
        outcome = row if isinstance(row, Rejection) else _item(row, str(row.get("id") or place))
        (rejected if isinstance(outcome, Rejection) else items).append(outcome)  # type: ignore[arg-type]
    return Source("jsonl", path.parent, items, rejected, [path])


def _item(row: dict[str, Any], name: str) -> SourceItem | Rejection:
    if "choices" in row or "choices_audio" in row:
        return _choices(row, name)
    missing = [key for key in ("context", "right", "wrong") if not (_string(row, key) or row.get(f"{key}_audio"))]
    if missing:
        empty = "empty-context" if "context" in missing else "empty-ending"
        reason = "bad-row" if any(key not in row for key in missing) else empty
        return Rejection(name, reason, f"{', '.join(missing)} missing or empty")
    text: dict[str, str] = {}
    audio: dict[str, str] = {}
    for key in ("context", "right", "wrong"):
        value = _string(row, key)
        if value.lower().endswith(AUDIO_SUFFIXES):
            audio[key] = value
        elif value:
            text[key] = value
        if _string(row, f"{key}_audio"):
            audio[key] = _string(row, f"{key}_audio")
    return SourceItem(
        id=name,
        label=0,
        group=_string(row, "group"),
        category=_string(row, "category"),
        context_text=text.get("context", ""),
        choices_text=both(text),
        context_audio=audio.get("context", ""),
        choices_audio=both(audio),
    )


def both(parts: dict[str, str]) -> tuple[str, ...]:
    """The right and the wrong ending, if there are both."""
    return (parts["right"], parts["wrong"]) if "right" in parts and "wrong" in parts else ()


def _choices(row: dict[str, Any], name: str) -> SourceItem | Rejection:
    text, audio = row.get("choices", []), row.get("choices_audio", [])
    lists = [value for value in (text, audio) if value]
    if not lists or not all(
        isinstance(value, list) and all(isinstance(choice, str) for choice in value) for value in lists
    ):
        return Rejection(name, "bad-row", "choices and choices_audio are lists of strings")
    count = len(lists[0])
    if count < 2 or any(len(value) != count for value in lists):
        return Rejection(name, "bad-row", "choices needs two or more entries, and choices_audio as many")
    label = row.get("label")
    if not isinstance(label, int) or not 0 <= label < count:
        return Rejection(name, "bad-row", f"label is {label!r}, expected 0 to {count - 1}")
    context, context_audio = row.get("context"), _string(row, "context_audio")
    prompted = context is not None or bool(context_audio)
    return SourceItem(
        id=name,
        label=label,
        group=_string(row, "group"),
        category=_string(row, "category"),
        context_text=context if isinstance(context, str) else "",
        choices_text=tuple(text),
        context_audio=context_audio,
        choices_audio=tuple(audio),
        has_context=prompted,
    )


def _string(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    return value.strip() if isinstance(value, str) else ""
