"""Text benchmarks in the files their authors give out: HellaSwag, PIQA, BLiMP.

Queries are those of EleutherAI's lm-evaluation-harness, to the character: that is what published numbers mean.
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lst.errors import LstError
from lst.evaluate.readers.jsonl import json_rows
from lst.evaluate.readers.source import Source, SourceItem, read_lines
from lst.manifest import Rejection

_BRACKETS = re.compile(r"\[.*?\]")


def read_hellaswag(path: Path) -> Source:
    """The authors' JSONL: `activity_label`, `ctx_a`, `ctx_b`, four `endings`, `label`. Ids: `ind`, else `source_id`."""
    items, rejected = [], []
    for place, row in json_rows(path):
        if isinstance(row, Rejection):
            rejected.append(row)
            continue
        name = str(row.get("ind", row.get("source_id", place)))
        endings, label = row.get("endings"), _label(row.get("label"), 4)
        missing = [key for key in ("activity_label", "ctx_a", "ctx_b") if not isinstance(row.get(key), str)]
        if missing or not isinstance(endings, list) or len(endings) != 4:
            rejected.append(Rejection(name, "bad-row", f"lacks {', '.join(missing) or 'four endings'}"))
        elif label is None:
            rejected.append(Rejection(name, "no-label", f"label is {row.get('label')!r}"))
        else:
            items.append(
                SourceItem(
                    name,
                    label,
                    category=str(row.get("split_type") or ""),
                    context_text=hellaswag_query(row["activity_label"], row["ctx_a"], row["ctx_b"]),
                    choices_text=tuple(_hellaswag_text(str(ending)) for ending in endings),
                )
            )
    return Source("hellaswag", path.parent, items, rejected, [path])


def hellaswag_query(activity: str, ctx_a: str, ctx_b: str) -> str:
    """The prompt: activity label, first sentence, beginning of the second one with a capital (lm-eval's query)."""
    return _hellaswag_text(f"{activity}: {ctx_a} {ctx_b.capitalize()}")


def _hellaswag_text(text: str) -> str:
    """WikiHow's `[title]` becomes a full stop, other brackets go."""
    return _BRACKETS.sub("", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def read_piqa(path: Path) -> Source:
    """The authors' JSONL (`goal`, `sol1`, `sol2`) and the labels beside it (`valid-labels.lst`: 0 or 1 per line).

    That is the one layout in which items and labels meet by their line. Raises LstError if their numbers differ.
    """
    rows = list(json_rows(path))
    labels = _piqa_labels(path, len(rows)) if not all("label" in row for _, row in _objects(rows)) else None
    items, rejected = [], []
    for number, (place, row) in enumerate(rows):
        if isinstance(row, Rejection):
            rejected.append(row)
            continue
        name = str(row.get("id") or place.replace(" ", "-"))
        missing = [key for key in ("goal", "sol1", "sol2") if not isinstance(row.get(key), str)]
        label = _label(row.get("label") if labels is None else labels[number], 2)
        if missing:
            rejected.append(Rejection(name, "bad-row", f"lacks {', '.join(missing)}"))
        elif label is None:
            rejected.append(Rejection(name, "no-label", "its label is not 0 or 1"))
        else:
            query = f"Question: {row['goal']}\nAnswer:"
            items.append(SourceItem(name, label, context_text=query, choices_text=(row["sol1"], row["sol2"])))
    return Source("piqa", path.parent, items, rejected, [path])


def _objects(rows: list[tuple[str, dict[str, Any] | Rejection]]) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((place, row) for place, row in rows if not isinstance(row, Rejection))


def _piqa_labels(path: Path, count: int) -> list[str]:
    stem = path.name.removesuffix(".gz").removesuffix(".jsonl")
    names = [f"{stem}-labels.lst", f"{stem}_labels.lst"]
    found = next((path.parent / name for name in names if (path.parent / name).is_file()), None)
    if found is None:
        raise LstError(f"{path} has no labels beside it.", hint=f"Put {names[0]} there, or a label into every line.")
    labels = [line.strip() for line in read_lines(found) if line.strip()]
    if len(labels) != count:
        raise LstError(f"{found} has {len(labels)} labels for {count} lines of {path.name}.", hint="Fetch both again.")
    return labels


def read_blimp(path: Path) -> Source:
    """BLiMP: a directory of the authors' `<paradigm>.jsonl`, one such file, or a table `uid, pair_id, good, bad`."""
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    items: list[SourceItem] = []
    rejected: list[Rejection] = []
    for file in files:
        rows = _blimp_table(file) if ".tsv" in file.suffixes else json_rows(file)
        for place, row in rows:
            if isinstance(row, Rejection):
                rejected.append(Rejection(f"{file.name} {row.id}", row.reason, row.detail))
                continue
            paradigm = str(row.get("UID") or file.name.removesuffix(".jsonl"))
            name = f"{paradigm}/{row.get('pairID', place)}"
            good, bad = row.get("sentence_good"), row.get("sentence_bad")
            if not isinstance(good, str) or not isinstance(bad, str):
                rejected.append(Rejection(name, "bad-row", "lacks sentence_good or sentence_bad"))
            else:
                items.append(SourceItem(name, 0, category=paradigm, choices_text=(good, bad), has_context=False))
    return Source("blimp", path if path.is_dir() else path.parent, items, rejected, files)


def _blimp_table(path: Path) -> Iterator[tuple[str, dict[str, Any] | Rejection]]:
    reader = csv.DictReader(read_lines(path), delimiter="\t", quoting=csv.QUOTE_NONE)
    absent = [name for name in ("uid", "pair_id", "good", "bad") if name not in (reader.fieldnames or [])]
    if absent:
        raise LstError(f"{path} is not a table of BLiMP: it lacks the column {absent[0]}.")
    for number, row in enumerate(reader, start=2):
        yield (
            f"line {number}",
            {"UID": row["uid"], "pairID": row["pair_id"], "sentence_good": row["good"], "sentence_bad": row["bad"]},
        )


def _label(value: Any, count: int) -> int | None:
    text = str(value)
    return int(text) if text.isdecimal() and int(text) < count else None
