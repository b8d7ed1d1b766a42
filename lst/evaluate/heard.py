"""A benchmark's speech as a recogniser writes it down: what a cascade makes of it, the bar for listening directly.

Prompt and endings are transcribed one by one (as `lst transcribe --beam 1` does), and the model scores the transcripts
as text. Nothing but the speech is read; the benchmark's own texts are not.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lst.errors import LstError
from lst.evaluate.done import read_done
from lst.generate.decoding import generate
from lst.generate.recognition import TRANSCRIBE, recognition_prompt
from lst.generate.session import Session
from lst.manifest import Progress, sha256_json

HEARD = "heard"
"""The mode's name in results: speech -> speech by way of text."""
BATCH = 32


def as_heard(
    recogniser: Session, rows: Sequence[dict[str, Any]], done_file: Path, *, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Rows of `lst.bench/1` whose texts are transcripts of their units, without the units.

    Left out is an item of which a part is not spoken, or too long for the recogniser, or one of which it makes nothing.
    Without a prompt the endings alone are heard. Transcripts go to `done_file` as they come: a killed run goes on.
    """
    spoken = [(row, parts) for row in rows if (parts := _parts(row)) and all(parts)]
    pieces = {_key(units): units for _, parts in spoken for units in parts}
    transcripts = _transcripts(recogniser, pieces, done_file, progress)
    heard = []
    for row, parts in spoken:
        texts = [transcripts.get(_key(units), "") for units in parts]
        if all(texts):
            count = len(row["choices_units"])
            written = {"context_text": "".join(texts[:-count]), "choices_text": texts[-count:]}
            heard.append({**row, "context_units": [], "choices_units": [], **written})
    return heard


def _parts(row: dict[str, Any]) -> list[list[int]]:
    """Units of the prompt, if the item has one, and of the endings."""
    prompted = bool(row["context_text"]) or len(row["context_units"]) > 0
    return [*([row["context_units"]] if prompted else []), *row["choices_units"]] if row["choices_units"] else []


def _transcripts(
    recogniser: Session, pieces: dict[str, list[int]], done_file: Path, progress: Progress | None
) -> dict[str, str]:
    """What is heard in each piece of speech that is not too long; equal pieces are heard once."""
    done = {key: entry["text"] for key, entry in read_done(done_file).items()}
    left = []
    for key in [key for key in pieces if key not in done]:
        try:
            left.append((key, recognition_prompt(recogniser, np.array(pieces[key]), key)))
        except LstError:
            continue  # too long; `n` shows that its item is missing
    left.sort(key=lambda pair: (-len(pair[1]), pair[0]))  # equal lengths decode together
    report = progress or (lambda *_: None)
    with done_file.open("a", encoding="utf-8") as file:
        for start in range(0, len(left), BATCH):
            batch = left[start : start + BATCH]
            made = generate(recogniser, [prompt for _, prompt in batch], "text", TRANSCRIBE, batch_size=len(batch))
            for (key, _), one in zip(batch, made, strict=True):
                done[key] = recogniser.text.decode(one.ids("text").tolist()).strip()
                file.write(json.dumps({"id": key, "text": done[key]}, ensure_ascii=False) + "\n")
            file.flush()
            report(len(pieces) - len(left) + start + len(batch), len(pieces), "parts heard")
    return done


def _key(units: Sequence[int]) -> str:
    return sha256_json([int(unit) for unit in units])
