"""ZeroSpeech sLM21: sWUGGY (`lexical/`) and sBLIMP (`syntactic/`), sound files with their `gold.csv`.

    lexical     filename, id, voice, word, correct [, frequency, phones, …]
    syntactic   filename, id, voice, transcription, correct [, type, subtype]

A pair is what has the same `id` and `voice`: one row correct, one not. Pairs of one `id` are the same words by several
voices: they form a group, and count once.
"""

import csv
from pathlib import Path

from lst.errors import LstError
from lst.evaluate.readers.source import AUDIO_SUFFIXES, Format, Source, SourceItem, read_lines
from lst.manifest import Rejection

GOLD_FILE = "gold.csv"


def gold_format(path: Path) -> Format:
    """Which of the two tasks a `gold.csv` belongs to, by its columns."""
    header = next(csv.reader(read_lines(path)), [])
    return "swuggy" if "word" in header else "sblimp"


def read_zerospeech(path: Path) -> Source:
    """A directory with `gold.csv`, or the file itself; sound files lie beside it, named with or without suffix."""
    gold = path / GOLD_FILE if path.is_dir() else path
    form = gold_format(gold)
    text_column = "word" if form == "swuggy" else "transcription"
    reader = csv.DictReader(read_lines(gold))
    wanted = ("filename", "id", "voice", "correct")
    absent = [name for name in wanted if name not in (reader.fieldnames or [])]
    if absent:
        raise LstError(
            f"{gold} is not a gold file of ZeroSpeech: it lacks the column {absent[0]}.",
            hint=f"Its first line should name {', '.join(wanted)}, and word or transcription.",
        )
    pairs: dict[tuple[str, str], dict[bool, list[dict[str, str]]]] = {}
    rejected: list[Rejection] = []
    for number, row in enumerate(reader, start=2):
        correct = {"1": True, "true": True, "0": False, "false": False}.get((row["correct"] or "").strip().lower())
        if correct is None or not row["filename"] or not row["id"]:
            rejected.append(Rejection(f"line {number}", "bad-row", f"correct is {row['correct']!r}"))
            continue
        pairs.setdefault((row["id"], row["voice"] or ""), {}).setdefault(correct, []).append(row)
    items = []
    for (number_of_pair, voice), rows in pairs.items():
        name = f"{number_of_pair}/{voice}" if voice else number_of_pair
        right, wrong = rows.get(True, []), rows.get(False, [])
        if len(right) > 1 or len(wrong) > 1:
            rejected.append(Rejection(name, "duplicate-id", f"{len(right)} correct and {len(wrong)} incorrect files"))
        elif not right or not wrong:
            what = "correct" if not right else "incorrect"
            rejected.append(Rejection(name, "missing-file", f"no {what} file with this id and voice"))
        else:
            texts = tuple((row.get(text_column) or "").strip() for row in (right[0], wrong[0]))
            items.append(
                SourceItem(
                    name,
                    0,
                    group=number_of_pair,
                    category=right[0].get("type") or _frequency(right[0].get("frequency")),
                    choices_text=texts if all(texts) else (),
                    choices_audio=(_file(gold.parent, right[0]), _file(gold.parent, wrong[0])),
                    has_context=False,
                )
            )
    return Source(form, gold.parent, items, rejected, [gold])


def _file(root: Path, row: dict[str, str]) -> str:
    """The sound file of a row: named in full, or by its stem."""
    name = row["filename"]
    if name.lower().endswith(AUDIO_SUFFIXES):
        return name
    return next((name + suffix for suffix in AUDIO_SUFFIXES if (root / (name + suffix)).is_file()), f"{name}.wav")


def _frequency(value: str | None) -> str:
    """Words that LibriSpeech has, against those it has not (the challenge's `oov`)."""
    if not value:
        return ""
    return "out of vocabulary" if value in ("0", "oov", "0.0") else "in vocabulary"
