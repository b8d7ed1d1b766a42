"""Sound files and unit files: names that are safe for any id, 16-bit WAV, and lists of units as text or JSON."""

import hashlib
import json
import re
import wave
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lst.errors import LstError
from lst.manifest.files import fsync_directory, fsync_file

NAME_LENGTH = 60


def wav_name(row_id: str) -> str:
    """A file name for the row `row_id`: its readable end, and a hash that keeps different ids apart.

    ASCII letters, digits, `-`, `_` and single dots only, at most 90 characters, whatever the id holds.
    """
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", row_id.replace("#", "-"))[-NAME_LENGTH:].strip("_-")
    digest = hashlib.sha256(row_id.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{readable or 'wave'}.{digest}.wav"


def write_wav(path: Path, samples: NDArray[np.float32], rate: int) -> None:
    """16-bit PCM, mono, whole or not at all. samples: (n,) in [-1, 1]; what is beyond is clipped."""
    write_wav_pieces(path, [samples], rate)


def write_wav_pieces(path: Path, pieces: Iterable[NDArray[np.float32]], rate: int) -> int:
    """The same from pieces as they come, in the memory of one piece; returns the number of samples."""
    temporary = path.with_name(f".{path.name}.writing")
    count = 0
    try:
        # `wave`, not libsndfile: libsndfile does not say why a write failed, and a full disk has to be told apart.
        with temporary.open("wb") as file, wave.open(file, "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(rate)
            for piece in pieces:
                pcm = np.round(np.clip(piece, -1, 32767 / 32768) * 32768).astype("<i2")
                out.writeframes(pcm.tobytes())
                count += len(pcm)
        fsync_file(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_directory(path.parent)
    return count


@dataclass(frozen=True)
class UnitList:
    """Units from a file: `tokenizer` is the fingerprint (or name) that the file gives, empty if none."""

    id: str
    units: list[int]
    tokenizer: str = ""


def read_units_file(path: Path) -> UnitList:
    """Units of one utterance from a text file or from JSON.

    Text: whole numbers, separated by spaces, commas or lines. JSON: a list, or an object such as
    `{"units": [17, 17, 402], "tokenizer": "hubert-nano-25hz-501"}`, where `tokenizer` may be a name or a fingerprint.
    Raises LstError that says where the file is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise LstError(f"{path} is not text (byte {error.start}).", hint="Give units as text or JSON.") from error
    except OSError as error:
        raise LstError(f"{path} cannot be read ({error.strerror}).", hint="Give a file of units.") from error
    if text.lstrip()[:1] in ("{", "["):
        return _from_json(path, text)
    units = []
    for number, line in enumerate(text.splitlines(), start=1):
        for word in re.split(r"[\s,;]+", line.strip()):
            if word and not re.fullmatch(r"\d{1,9}", word):
                raise LstError(
                    f"{path}, line {number}: {word[:30]!r} is not a unit.", hint="Units are whole numbers from 0."
                )
            if word:
                units.append(int(word))
    return UnitList(path.stem, units)


def _from_json(path: Path, text: str) -> UnitList:
    form = 'The form is {"units": [17, 17, 402], "tokenizer": "hubert-nano-25hz-501"}.'
    try:
        body: Any = json.loads(text)
    except ValueError as error:
        raise LstError(f"{path} is not valid JSON ({error}).", hint=form) from error
    if isinstance(body, list):
        body = {"units": body}
    units = body.get("units")
    if not isinstance(units, list):
        raise LstError(f"{path} has no list called units.", hint=form)
    for place, unit in enumerate(units):
        if isinstance(unit, bool) or not isinstance(unit, int):
            raise LstError(f"{path}: entry {place} of units is {str(unit)[:30]!r}, not a whole number.", hint=form)
    return UnitList(path.stem, units, str(body.get("tokenizer") or ""))
