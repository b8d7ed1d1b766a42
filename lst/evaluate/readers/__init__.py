"""Benchmark layouts: from the files people have to items of one kind. Text and paths only: no audio is decoded here.

Items are put together by id, never by the order of files (but PIQA's labels, which come by line). What cannot be used
is rejected with a reason that is counted; the other items go on.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from lst.errors import LstError
from lst.evaluate.readers.choices import read_blimp, read_hellaswag, read_piqa
from lst.evaluate.readers.jsonl import read_jsonl
from lst.evaluate.readers.source import AUDIO_SUFFIXES, Format, Source, SourceItem, read_lines
from lst.evaluate.readers.stories import CROSS_MODAL, SLAMKIT, read_cross, read_csv, read_slamkit
from lst.evaluate.readers.zerospeech import GOLD_FILE, gold_format, read_zerospeech
from lst.manifest import Rejection, inside

__all__ = ["AUDIO_SUFFIXES", "Format", "Source", "SourceItem", "detect", "read_source"]

_READERS: dict[Format, Callable[[Path], Source]] = {
    "storycloze-csv": read_csv,
    "slamkit": read_slamkit,
    "cross-modal": read_cross,
    "jsonl": read_jsonl,
    "hellaswag": read_hellaswag,
    "piqa": read_piqa,
    "blimp": read_blimp,
    "swuggy": read_zerospeech,
    "sblimp": read_zerospeech,
}
_KEYS: tuple[tuple[str, Format], ...] = (("activity_label", "hellaswag"), ("sol1", "piqa"), ("sentence_good", "blimp"))
"""A key that only this layout's lines have."""

_LAYOUTS = (
    "Layouts: a StoryCloze .csv, a .jsonl of {context, right, wrong} or {context, choices, label}, the .jsonl of "
    "HellaSwag, PIQA or BLiMP, ZeroSpeech's gold.csv, NUMBER_ID_correct.wav with NUMBER_ID_incorrect.wav, or "
    "BASE_mutual/_correct/_incorrect as .wav or .txt."
)


def read_source(path: Path, form: Format | Literal["auto"] = "auto") -> Source:
    """Read the benchmark at `path`, a file or a directory, in `form` or whatever it looks like.

    Raises LstError if it is not there, is of no known layout, or holds no usable item.
    """
    if not path.exists():
        raise LstError(f"There is no benchmark at {path}.", hint="Give the file or directory that holds it.")
    found = detect(path) if form == "auto" else form
    if path.is_dir() and found in ("jsonl", "hellaswag", "piqa"):
        path = _only_file(path, (".jsonl", ".jsonl.gz"))
    elif path.is_dir() and found == "storycloze-csv":
        path = _only_file(path, (".csv",))
    source = _checked(_READERS[found](path))
    if not source.items:
        first = source.rejected[0] if source.rejected else None
        why = f" (first: {first.id}: {first.reason} {first.detail})" if first else ""
        raise LstError(f"{path} holds no usable {found} item{why}.", hint=_LAYOUTS)
    return source


def detect(path: Path) -> Format:
    """Which layout `path` has. Raises LstError if none."""
    if path.is_file():
        name = path.name.lower().removesuffix(".gz")
        if name == GOLD_FILE:
            return gold_format(path)
        if name.endswith(".csv"):
            return "storycloze-csv"
        if name.endswith(".tsv"):
            return "blimp"
        if name.endswith((".jsonl", ".json")):
            return _json_format(path)
        raise LstError(f"{path} is not a benchmark that lst reads.", hint=_LAYOUTS)
    if (path / "items.jsonl").is_file():
        return "jsonl"
    if (path / GOLD_FILE).is_file():
        return gold_format(path / GOLD_FILE)
    names = [entry for entry in path.iterdir() if entry.is_file()]
    stems = [entry.stem for entry in names if entry.suffix.lower() in (*AUDIO_SUFFIXES, ".txt")]
    if any((match := CROSS_MODAL.fullmatch(stem)) and match["part"] == "mutual" for stem in stems):
        return "cross-modal"
    if any(SLAMKIT.fullmatch(stem) for stem in stems):
        return "slamkit"
    lines = sorted(entry for entry in names if entry.name.endswith((".jsonl", ".jsonl.gz")))
    if lines:
        found = {_json_format(line) for line in lines}
        # BLiMP comes in 67 files; of any other benchmark two files are two benchmarks.
        return "blimp" if found == {"blimp"} else _json_format(_only_file(path, (".jsonl", ".jsonl.gz")))
    if any(entry.suffix == ".csv" for entry in names):
        return "storycloze-csv"
    below = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    hint = f"Give one of the directories in it: {', '.join(below[:5])}. {_LAYOUTS}" if below else _LAYOUTS
    raise LstError(f"{path} holds no benchmark that lst reads.", hint=hint)


def _json_format(path: Path) -> Format:
    """By the keys of the first line that is JSON; the reader says what is wrong with the others."""
    for line in read_lines(path):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        keys = row if isinstance(row, dict) else {}
        return next((form for key, form in _KEYS if key in keys), "jsonl")
    return "jsonl"


def _only_file(directory: Path, suffixes: tuple[str, ...]) -> Path:
    if (directory / "items.jsonl").is_file() and ".jsonl" in suffixes:
        return directory / "items.jsonl"
    files = sorted(entry for entry in directory.iterdir() if entry.name.endswith(suffixes))
    if len(files) != 1:
        what = ", ".join(entry.name for entry in files) or "none"
        raise LstError(f"{directory} should hold one {suffixes[0]} file, it has {what}.", hint="Name the file itself.")
    return files[0]


def _checked(source: Source) -> Source:
    """Reject what every layout can get wrong: an id used twice, an empty ending, a path that leaves, a missing file."""
    items: list[SourceItem] = []
    rejected = list(source.rejected)
    ids: set[str] = set()
    for item in source.items:
        problem = _problem(item, ids, source.root)
        ids.add(item.id)
        if problem is None:
            items.append(item)
        else:
            rejected.append(problem)
    return Source(source.format, source.root, items, rejected, source.index)


def _problem(item: SourceItem, ids: set[str], root: Path) -> Rejection | None:
    if item.id in ids:
        return Rejection(item.id, "duplicate-id", "another item has this id; the first one is kept")
    if not item.choices_text and not item.choices_audio:
        return Rejection(item.id, "mixed-endings", "one ending is text only and the other audio only")
    if item.choices_text and not all(text.strip() for text in item.choices_text):
        return Rejection(item.id, "empty-ending", "an ending without text")
    if item.has_context and not item.context_text.strip() and not item.context_audio:
        return Rejection(item.id, "empty-context", "")
    for name in item.audio_paths:
        try:
            path = inside(root, name, what=item.id)
        except LstError as error:
            return Rejection(item.id, "path-escapes", error.message)
        if not path.is_file():
            return Rejection(item.id, "missing-file", name)
    return None
