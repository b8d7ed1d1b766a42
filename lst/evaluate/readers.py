"""Benchmark layouts: from the files people have to items of one kind. Text and paths only: no audio is decoded here.

    storycloze-csv   the official StoryCloze file (Spring 2016 columns), text
    slamkit          `<int>_<id>_correct.wav`, `<int+1>_<id>_incorrect.wav`: whole spoken stories, no separate prompt
    cross-modal      `<base>_{mutual,correct,incorrect}.{wav,txt}`: prompt and endings, either or both modalities
    jsonl            a line per item: {"id", "context", "right", "wrong"} as text or as audio paths, and/or
                     {"context_audio", "right_audio", "wrong_audio"}

Items are put together by id, never by the order of files. What cannot be used is rejected with a reason that is
counted; the other items go on.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lst.errors import LstError
from lst.manifest import Rejection, inside

Format = Literal["storycloze-csv", "slamkit", "cross-modal", "jsonl"]

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
CSV_COLUMNS = (
    "InputStoryid",
    "InputSentence1",
    "InputSentence2",
    "InputSentence3",
    "InputSentence4",
    "RandomFifthSentenceQuiz1",
    "RandomFifthSentenceQuiz2",
    "AnswerRightEnding",
)
_SLAMKIT = re.compile(r"(?P<number>\d+)_(?P<id>.+)_(?P<label>correct|incorrect)")
_CROSS_MODAL = re.compile(r"(?P<id>.+)_(?P<part>mutual|correct|incorrect)")


@dataclass(frozen=True)
class SourceItem:
    """An item as its files give it. A modality it lacks is an empty string or an empty tuple.

    `choices_*`: the endings, `label` the index of the right one; `*_audio`: paths relative to the benchmark's root.
    `has_context` is False where the layout has no prompt of its own (slamkit): the endings are whole stories.
    """

    id: str
    label: int
    group: str = ""
    context_text: str = ""
    choices_text: tuple[str, ...] = ()
    context_audio: str = ""
    choices_audio: tuple[str, ...] = ()
    has_context: bool = True

    @property
    def audio_paths(self) -> tuple[str, ...]:
        """Every audio file of the item."""
        return (*((self.context_audio,) if self.context_audio else ()), *self.choices_audio)


@dataclass(frozen=True)
class Source:
    """A benchmark's items before tokenization: `root` is where audio paths start."""

    format: Format
    root: Path
    items: list[SourceItem]
    rejected: list[Rejection]
    index: list[Path] = field(default_factory=list)
    """Files read on the way: their contents determine the items."""


def read_source(path: Path, form: Format | Literal["auto"] = "auto") -> Source:
    """Read the benchmark at `path`, a file or a directory, in `form` or whatever it looks like.

    Raises LstError if it is not there, is of no known layout, or holds no usable item.
    """
    if not path.exists():
        raise LstError(f"There is no benchmark at {path}.", hint="Give the file or directory that holds it.")
    found = detect(path) if form == "auto" else form
    if path.is_dir() and found in ("jsonl", "storycloze-csv"):
        path = _only_file(path, ".jsonl" if found == "jsonl" else ".csv")
    source = {"jsonl": _read_jsonl, "storycloze-csv": _read_csv, "slamkit": _read_slamkit, "cross-modal": _read_cross}[
        found
    ](path)
    source = _checked(source)
    if not source.items:
        first = source.rejected[0] if source.rejected else None
        why = f" (first: {first.id}: {first.reason} {first.detail})" if first else ""
        raise LstError(f"{path} holds no usable {found} item{why}.", hint=_LAYOUTS)
    return source


_LAYOUTS = (
    "Layouts: a StoryCloze .csv, a .jsonl of {context, right, wrong}, NUMBER_ID_correct.wav with "
    "NUMBER_ID_incorrect.wav, or BASE_mutual/_correct/_incorrect as .wav or .txt."
)


def detect(path: Path) -> Format:
    """Which layout `path` has. Raises LstError if none."""
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix == ".csv":
            return "storycloze-csv"
        if suffix in (".jsonl", ".json"):
            return "jsonl"
        raise LstError(f"{path} is not a benchmark that lst reads.", hint=_LAYOUTS)
    if (path / "items.jsonl").is_file():
        return "jsonl"
    names = [entry for entry in path.iterdir() if entry.is_file()]
    stems = [entry.stem for entry in names if entry.suffix.lower() in (*AUDIO_SUFFIXES, ".txt")]
    if any((match := _CROSS_MODAL.fullmatch(stem)) and match["part"] == "mutual" for stem in stems):
        return "cross-modal"
    if any(_SLAMKIT.fullmatch(stem) for stem in stems):
        return "slamkit"
    if any(entry.suffix == ".jsonl" for entry in names):
        return "jsonl"
    if any(entry.suffix == ".csv" for entry in names):
        return "storycloze-csv"
    below = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    hint = f"Give one of the directories in it: {', '.join(below[:5])}. {_LAYOUTS}" if below else _LAYOUTS
    raise LstError(f"{path} holds no benchmark that lst reads.", hint=hint)


def _only_file(directory: Path, suffix: str) -> Path:
    if suffix == ".jsonl" and (directory / "items.jsonl").is_file():
        return directory / "items.jsonl"
    files = sorted(entry for entry in directory.iterdir() if entry.suffix == suffix)
    if len(files) != 1:
        what = ", ".join(entry.name for entry in files) or "none"
        raise LstError(f"{directory} should hold one {suffix} file, it has {what}.", hint="Name the file itself.")
    return files[0]


def _read_jsonl(path: Path) -> Source:
    items, rejected = [], []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        place = f"line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            rejected.append(Rejection(place, "bad-row", f"not JSON: {error}"))
            continue
        if not isinstance(row, dict):
            rejected.append(Rejection(place, "bad-row", "not a JSON object"))
            continue
        name = str(row.get("id") or place)
        missing = [key for key in ("context", "right", "wrong") if not (_string(row, key) or row.get(f"{key}_audio"))]
        if missing:
            reason = "bad-row" if any(key not in row for key in missing) else _empty(missing)
            rejected.append(Rejection(name, reason, f"{', '.join(missing)} missing or empty"))
            continue
        text, audio = _modalities(row)
        items.append(
            SourceItem(
                id=name,
                label=0,
                group=str(row.get("group") or ""),
                context_text=text.get("context", ""),
                choices_text=_both(text),
                context_audio=audio.get("context", ""),
                choices_audio=_both(audio),
            )
        )
    return Source("jsonl", path.parent, items, rejected, [path])


def _modalities(row: dict[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """The texts and the audio paths of a JSONL row. A value that ends like an audio file is a path."""
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
    return text, audio


def _both(parts: dict[str, str]) -> tuple[str, ...]:
    return (parts["right"], parts["wrong"]) if "right" in parts and "wrong" in parts else ()


def _string(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    return value.strip() if isinstance(value, str) else ""


def _empty(parts: Iterable[str]) -> str:
    return "empty-context" if "context" in parts else "empty-ending"


def _read_csv(path: Path) -> Source:
    items, rejected = [], []
    reader = csv.DictReader(_lines(path))
    header = reader.fieldnames or []
    absent = [name for name in CSV_COLUMNS if name not in header]
    if absent:
        raise LstError(
            f"{path} is not a StoryCloze file: it lacks the column {absent[0]}.",
            hint=f"Its first line should name {', '.join(CSV_COLUMNS)}.",
        )
    for number, row in enumerate(reader, start=2):
        values = {name: (row.get(name) or "").strip() for name in CSV_COLUMNS}
        name = values["InputStoryid"] or f"line {number}"
        context = " ".join(values[f"InputSentence{k}"] for k in range(1, 5) if values[f"InputSentence{k}"])
        endings = (values["RandomFifthSentenceQuiz1"], values["RandomFifthSentenceQuiz2"])
        if values["AnswerRightEnding"] not in ("1", "2"):
            detail = f"AnswerRightEnding is {values['AnswerRightEnding']!r}, expected 1 or 2"
            rejected.append(Rejection(name, "bad-row", detail))
        elif not context:
            rejected.append(Rejection(name, "empty-context", f"line {number}"))
        else:
            label = int(values["AnswerRightEnding"]) - 1
            items.append(SourceItem(name, label, context_text=context, choices_text=endings))
    return Source("storycloze-csv", path.parent, items, rejected, [path])


def _read_slamkit(path: Path) -> Source:
    found: dict[str, dict[str, list[tuple[int, str]]]] = {}
    for entry in sorted(path.iterdir()):
        match = _SLAMKIT.fullmatch(entry.stem)
        if match and entry.suffix.lower() in AUDIO_SUFFIXES:
            labels = found.setdefault(match["id"], {})
            labels.setdefault(match["label"], []).append((int(match["number"]), entry.name))
    items, rejected = [], []
    for name, labels in found.items():
        right, wrong = labels.get("correct", []), labels.get("incorrect", [])
        if len(right) > 1 or len(wrong) > 1:
            files = ", ".join(file for _, file in [*right, *wrong])
            rejected.append(Rejection(name, "duplicate-id", files))
        elif not right or not wrong:
            rejected.append(Rejection(name, "missing-file", f"no {'_correct' if not right else '_incorrect'} file"))
        elif wrong[0][0] != right[0][0] + 1 or right[0][0] % 2:
            detail = f"{right[0][1]} and {wrong[0][1]} are not an even number and the next"
            rejected.append(Rejection(name, "label-mismatch", detail))
        else:
            items.append(SourceItem(name, 0, choices_audio=(right[0][1], wrong[0][1]), has_context=False))
    return Source("slamkit", path, items, rejected)


def _read_cross(path: Path) -> Source:
    audio: dict[str, dict[str, list[str]]] = {}
    text: dict[str, dict[str, str]] = {}
    index = []
    for entry in sorted(path.iterdir()):
        match = _CROSS_MODAL.fullmatch(entry.stem)
        if match is None:
            continue
        if entry.suffix.lower() in AUDIO_SUFFIXES:
            audio.setdefault(match["id"], {}).setdefault(match["part"], []).append(entry.name)
        elif entry.suffix.lower() == ".txt":
            text.setdefault(match["id"], {})[match["part"]] = "\n".join(_lines(entry)).strip()
            index.append(entry)
    items, rejected = [], []
    parts = ("mutual", "correct", "incorrect")
    for name in sorted({*audio, *text}):
        heard, written = audio.get(name, {}), text.get(name, {})
        double = [part for part in parts if len(heard.get(part, [])) > 1]
        missing = [part for part in parts if part not in heard and part not in written]
        if double:
            rejected.append(Rejection(name, "duplicate-id", ", ".join(heard[double[0]])))
        elif missing:
            rejected.append(Rejection(name, "missing-file", f"no {name}_{missing[0]} as audio or text"))
        else:
            items.append(
                SourceItem(
                    id=name,
                    label=0,
                    context_text=written.get("mutual", ""),
                    choices_text=_both({"right": written["correct"], "wrong": written["incorrect"]})
                    if "correct" in written and "incorrect" in written
                    else (),
                    context_audio=heard["mutual"][0] if "mutual" in heard else "",
                    choices_audio=(heard["correct"][0], heard["incorrect"][0])
                    if "correct" in heard and "incorrect" in heard
                    else (),
                )
            )
    return Source("cross-modal", path, items, rejected, index)


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
    if item.has_context and not item.context_text and not item.context_audio:
        return Rejection(item.id, "empty-context", "")
    for name in item.audio_paths:
        try:
            path = inside(root, name, what=item.id)
        except LstError as error:
            return Rejection(item.id, "path-escapes", error.message)
        if not path.is_file():
            return Rejection(item.id, "missing-file", name)
    return None


def _lines(path: Path) -> Iterator[str]:
    """Lines of a text file; invalid UTF-8 becomes U+FFFD, a byte-order mark is dropped."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            yield from file
    except OSError as error:
        raise LstError(f"Cannot read {path}: {error.strerror or error}.") from error
