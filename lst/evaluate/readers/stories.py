"""Story clozes: the authors' CSV, slamkit's spoken stories, and prompts and endings as separate files.

storycloze-csv   the official StoryCloze file (Spring 2016 columns), text
slamkit          `<int>_<id>_correct.wav`, `<int+1>_<id>_incorrect.wav`: whole spoken stories, no separate prompt
cross-modal      `<base>_{mutual,correct,incorrect}.{wav,txt}`: prompt and endings, either or both modalities
"""

import csv
import re
from pathlib import Path

from lst.errors import LstError
from lst.evaluate.readers.jsonl import both
from lst.evaluate.readers.source import AUDIO_SUFFIXES, Source, SourceItem, read_lines
from lst.manifest import Rejection

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
SLAMKIT = re.compile(r"(?P<number>\d+)_(?P<id>.+)_(?P<label>correct|incorrect)")
CROSS_MODAL = re.compile(r"(?P<id>.+)_(?P<part>mutual|correct|incorrect)")


def read_csv(path: Path) -> Source:
    """The official file: four sentences, two endings, which is right. Raises LstError if a column is missing."""
    items, rejected = [], []
    reader = csv.DictReader(read_lines(path))
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


def read_slamkit(path: Path) -> Source:
    """Whole spoken stories in twos: an even number is right, the next one wrong."""
    found: dict[str, dict[str, list[tuple[int, str]]]] = {}
    for entry in sorted(path.iterdir()):
        match = SLAMKIT.fullmatch(entry.stem)
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


def read_cross(path: Path) -> Source:
    """Prompt and endings apart, each as sound, text, or both."""
    audio: dict[str, dict[str, list[str]]] = {}
    text: dict[str, dict[str, str]] = {}
    index = []
    for entry in sorted(path.iterdir()):
        match = CROSS_MODAL.fullmatch(entry.stem)
        if match is None:
            continue
        if entry.suffix.lower() in AUDIO_SUFFIXES:
            audio.setdefault(match["id"], {}).setdefault(match["part"], []).append(entry.name)
        elif entry.suffix.lower() == ".txt":
            text.setdefault(match["id"], {})[match["part"]] = "\n".join(read_lines(entry)).strip()
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
                    choices_text=both({"right": written["correct"], "wrong": written["incorrect"]})
                    if "correct" in written and "incorrect" in written
                    else (),
                    context_audio=heard["mutual"][0] if "mutual" in heard else "",
                    choices_audio=(heard["correct"][0], heard["incorrect"][0])
                    if "correct" in heard and "incorrect" in heard
                    else (),
                )
            )
    return Source("cross-modal", path, items, rejected, index)
