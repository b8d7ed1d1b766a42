"""Transcripts as they come: lines of any length and encoding, and whether a text can be what was said."""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from lst.errors import LstError

LONGEST_LINE = 1 << 20
"""Bytes of a line that are read; the rest of a longer one is skipped, and its text rejected."""

SCRIPTS = {
    "latin": ("LATIN",),
    "cyrillic": ("CYRILLIC",),
    "greek": ("GREEK",),
    "arabic": ("ARABIC",),
    "hebrew": ("HEBREW",),
    "devanagari": ("DEVANAGARI",),
    "han": ("CJK",),
    "japanese": ("CJK", "HIRAGANA", "KATAKANA"),
    "hangul": ("HANGUL",),
    "thai": ("THAI",),
}
"""Script -> how the Unicode names of its letters begin."""

LANGUAGE_SCRIPT = {
    **dict.fromkeys(("en", "de", "nl", "fr", "es", "it", "pt", "pl", "sv", "da", "no", "fi", "cs", "tr"), "latin"),
    **dict.fromkeys(("ru", "uk", "bg"), "cyrillic"),
    "el": "greek",
    "ar": "arabic",
    "fa": "arabic",
    "he": "hebrew",
    "hi": "devanagari",
    "zh": "han",
    "ja": "japanese",
    "ko": "hangul",
    "th": "thai",
}
"""The script to expect by language; texts of other languages are not checked."""

Problem = tuple[str, str]
"""(reason, detail) of a text or recording that cannot be used."""


@dataclass(frozen=True)
class Line:
    """A line of a text file without its line end. `problem` is set if it is not UTF-8 or too long to be a line."""

    number: int
    text: str
    problem: Problem | None = None


def read_lines(path: Path) -> Iterator[Line]:
    """The non-empty lines of a UTF-8 file, with a byte-order mark or not, in bounded memory.

    Only newlines (and a carriage return before one) end a line. Invalid bytes are replaced and reported with the line.
    Raises FileNotFoundError, and LstError if the file cannot be read otherwise or is UTF-16.
    """
    with _open(path) as file:
        number = 0
        while raw := file.readline(LONGEST_LINE):
            number += 1
            complete = raw.endswith(b"\n") or len(raw) < LONGEST_LINE
            if number == 1:
                if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
                    raise LstError(f"{path} is UTF-16.", hint="Convert it to UTF-8.")
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            raw = raw.removesuffix(b"\n").removesuffix(b"\r")
            if not complete:
                while (rest := file.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
                    continue
                text = raw[:4096].decode("utf-8", errors="replace")
                yield Line(number, text, ("text-too-long", f"{path.name}, line {number}: over {LONGEST_LINE:,} bytes"))
                continue
            text, problem = decode(raw, f"{path.name}, line {number}")
            if text.strip():
                yield Line(number, text, problem)


def read_text(path: Path) -> tuple[str, Problem | None]:
    """The text of a small file as one line, and what is wrong with it, if anything."""
    try:
        with path.open("rb") as file:
            raw = file.read(LONGEST_LINE + 1)
    except OSError as error:  # such as a link that leads nowhere
        return "", ("transcript-unreadable", f"{path.name}: {error.strerror}")
    if len(raw) > LONGEST_LINE:
        return "", ("text-too-long", f"{path.name}: over {LONGEST_LINE:,} bytes")
    text, problem = decode(raw.removeprefix(b"\xef\xbb\xbf"), path.name)
    return " ".join(text.split()), problem


def decode(raw: bytes, where: str) -> tuple[str, Problem | None]:
    """UTF-8 bytes as text; what is invalid is replaced and reported as `invalid-utf8`."""
    try:
        return raw.decode("utf-8"), None
    except UnicodeDecodeError as error:
        problem = ("invalid-utf8", f"{where}: byte 0x{raw[error.start]:02x} at {error.start} is not UTF-8")
        return raw.decode("utf-8", errors="replace"), problem


def clean_text(text: str) -> str:
    """One line with single spaces; empty if there is no letter or digit in it."""
    text = " ".join(text.split())
    return text if any(character.isalnum() for character in text) else ""


def expected_script(script: str, language: str) -> str | None:
    """The script a text should be in: `script` itself, or with `auto` that of the language; None for any."""
    if script == "auto":
        return LANGUAGE_SCRIPT.get(language.split("-")[0].split("_")[0].lower())
    return None if script == "any" else script


def script_share(text: str, script: str) -> float:
    """Share of the letters of `text` that belong to `script`; 1 for a text without letters (such as digits)."""
    starts = SCRIPTS[script]
    letters = [character for character in text if character.isalpha()]
    if not letters:
        return 1.0
    return sum(_letter_name(character).startswith(starts) for character in letters) / len(letters)


@lru_cache(maxsize=4096)
def _letter_name(character: str) -> str:
    return unicodedata.name(character, "")


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise LstError(f"{path} cannot be read ({error.strerror}).") from error
