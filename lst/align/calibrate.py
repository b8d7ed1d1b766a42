"""What a trained aligner is off by, and which scores are too low: measured on recordings of its training data.

CTC learns which characters are said, not when: it may begin and end them a little early or late, always to the same
side. Where the true times of words are known (a synthesiser says them), the median of each is taken off.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lst.align.base import MAX_SHIFT_S, Aligner
from lst.audio import AudioError, open_row_audio
from lst.constants import FRAME_RATE, SAMPLE_RATE
from lst.errors import LstError
from lst.manifest import Manifest, iter_rows

TIMED = 300
"""Recordings at most that shifts are measured on."""
SCORED = 500
"""Recordings at most that the limit for scores is taken from."""
FALSE_REJECTION = 0.02
"""Share of right transcripts that score below the limit."""

Words = dict[str, list[dict[str, Any]]]


def read_words(path: Path) -> Words:
    """True words by file name. Raises LstError for a file that is not there, or with the line that is wrong.

    Lines are {"file": "a.wav", "words": [{"text": "One", "start_s": 0.058, "end_s": 0.2206}, ...]}.
    """
    if not path.is_file():
        raise LstError(f"{path} does not exist.", hint="Give the words.jsonl of recipes/assets/speak_piper.py.")
    words = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            body = json.loads(line)
            words[str(body["file"])] = [
                {"text": str(word["text"]), "start_s": float(word["start_s"]), "end_s": float(word["end_s"])}
                for word in body["words"]
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise LstError(
                f"{path}, line {number} is no list of words ({type(error).__name__}: {error}).",
                hint='The form is {"file": "a.wav", "words": [{"text": "One", "start_s": 0.06, "end_s": 0.22}]}.',
            ) from error
    return words


def measure_shifts(aligner: Aligner, audio: Manifest, ids: Iterable[str], words: Words) -> tuple[float, float]:
    """Seconds to add to the starts and to the ends of words, medians over recordings among `ids` with known `words`.

    At most `MAX_SHIFT_S`, as of an aligner that was hardly trained. Raises LstError if there are none.
    """
    kept = set(ids)
    timed = [
        row for row in iter_rows(audio) if row["id"] in kept and row["audio_path"] in words and not row["offset_s"]
    ]
    starts: list[float] = []
    ends: list[float] = []
    for row in _chosen(timed, TIMED):
        true = words[row["audio_path"]]
        found = _align(aligner, audio, row)
        if found is not None and [word.text for word in found.words] == [word["text"] for word in true]:
            starts += [word["start_s"] - time.start_s for word, time in zip(true, found.times, strict=True)]
            ends += [word["end_s"] - time.end_s for word, time in zip(true, found.times, strict=True)]
    if not starts:
        raise LstError(
            "The file of true words names none of the recordings that the aligner was trained on.",
            hint="File names are those of the audio manifest, relative to the corpus.",
        )
    start, end = (float(np.clip(np.median(off), -MAX_SHIFT_S, MAX_SHIFT_S)) for off in (starts, ends))
    return round(start, 4), round(end, 4)


def measure_limit(aligner: Aligner, audio: Manifest, ids: Iterable[str]) -> float:
    """The score that `FALSE_REJECTION` of the right transcripts of the recordings `ids` do not reach."""
    kept = set(ids)
    found = (
        _align(aligner, audio, row) for row in _chosen([row for row in iter_rows(audio) if row["id"] in kept], SCORED)
    )
    scores = sorted(0.0 if one is None else one.score for one in found)
    return round(scores[int(FALSE_REJECTION * len(scores))], 3) if scores else 0.0


def _chosen(rows: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most `most` rows, by a hash of their ids."""
    return sorted(rows, key=lambda row: hashlib.sha256(row["id"].encode()).digest())[:most]


def _align(aligner: Aligner, audio: Manifest, row: dict[str, Any]) -> Any:
    """The alignment of a row with its own transcript; None if there is none."""
    try:
        samples = open_row_audio(audio, row)
    except AudioError:
        return None
    found = aligner.align(samples, row["text"] or "", len(samples) * FRAME_RATE // SAMPLE_RATE)
    return None if found.rejected else found
