"""A benchmark's speech as a recogniser writes it down: what a cascade makes of it, the bar for listening directly.

Prompt and endings are transcribed one by one (greedily, as `lst transcribe` does), and the model scores the transcripts
as text. Nothing but the speech is read; the benchmark's own texts are not.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lst.errors import LstError
from lst.generate.decoding import generate
from lst.generate.recognition import TRANSCRIBE, recognition_prompt
from lst.generate.session import Session
from lst.manifest import Progress, sha256_json

HEARD = "heard"
"""The mode's name in results: speech -> speech by way of text."""
BATCH = 32


def check_recogniser(session: Session, recogniser: Session) -> None:
    """Raises LstError for a recogniser that was not fine-tuned for asr, or that reads units of another tokenizer."""
    if recogniser.task != "asr":
        raise LstError(f"{recogniser.directory} was not fine-tuned to recognise speech.", hint="Give an asr model.")
    recogniser.check_units(session.fingerprints.get("tokenizer", ""), f"What {session.directory} reads")


def as_heard(
    recogniser: Session, rows: Sequence[dict[str, Any]], done_file: Path, *, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Rows of `lst.bench/1` whose texts are transcripts of their units, without the units; silent items are left out.

    Left out is an item without units for its prompt or an ending, or of which the recogniser makes nothing. Transcripts
    go to `done_file` as they come, so that a killed run goes on. Raises LstError if something is too long to be heard.
    """
    spoken = [row for row in rows if len(row["context_units"]) and row["choices_units"] and all(row["choices_units"])]
    pieces = {_key(units): units for row in spoken for units in (row["context_units"], *row["choices_units"])}
    transcripts = _transcripts(recogniser, pieces, done_file, progress)
    heard = []
    for row in spoken:
        texts = [transcripts[_key(units)] for units in (row["context_units"], *row["choices_units"])]
        if all(texts):
            written = {"context_text": texts[0], "choices_text": texts[1:]}
            heard.append({**row, "context_units": [], "choices_units": [], **written})
    return heard


def _transcripts(
    recogniser: Session, pieces: dict[str, list[int]], done_file: Path, progress: Progress | None
) -> dict[str, str]:
    """What is heard in each piece of speech; equal pieces are heard once."""
    done = _read(done_file)
    left = [(key, recognition_prompt(recogniser, np.array(pieces[key]), "A part")) for key in pieces if key not in done]
    left.sort(key=lambda pair: (-len(pair[1]), pair[0]))  # equal lengths decode together
    report = progress or (lambda *_: None)
    with done_file.open("a", encoding="utf-8") as file:
        for start in range(0, len(left), BATCH):
            batch = left[start : start + BATCH]
            made = generate(recogniser, [prompt for _, prompt in batch], "text", TRANSCRIBE, batch_size=len(batch))
            for (key, _), one in zip(batch, made, strict=True):
                done[key] = recogniser.text.decode(one.ids("text").tolist()).strip()
                file.write(json.dumps([key, done[key]], ensure_ascii=False) + "\n")
            file.flush()
            report(len(pieces) - len(left) + start + len(batch), len(pieces), "parts heard")
    return done


def _read(path: Path) -> dict[str, str]:
    """What an interrupted run heard; a line that was cut short is heard again."""
    if not path.is_file():
        return {}
    whole, _, rest = path.read_text(encoding="utf-8").rpartition("\n")
    if rest:
        path.write_text(whole + "\n" if whole else "", encoding="utf-8")
    return dict(json.loads(line) for line in whole.splitlines())


def _key(units: Sequence[int]) -> str:
    return sha256_json([int(unit) for unit in units])
