"""What every corpus reader makes, and the walk through folders that they share."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lst.audio.decode import EXTENSIONS
from lst.audio.text import Line, Problem, read_lines
from lst.errors import LstError


@dataclass(frozen=True)
class Utterance:
    """A recording, or the part of one that a transcript belongs to, as a corpus lists it. Nothing is opened yet.

    `audio` is a path or an address inside an archive (`lst.audio.containers`). `duration_s` None: to the end.
    `problem` says why it cannot be used, where the corpus itself shows that.
    """

    audio: str
    text: str = ""
    speaker: str = ""
    language: str = ""
    offset_s: float = 0.0
    duration_s: float | None = None
    problem: Problem | None = None


@dataclass(frozen=True)
class CorpusReader:
    """A layout on disk: how to know it, how to read it, and the corpus it comes from.

    `detect` looks at names only and is quick on any folder; `read` yields utterances in a fixed order. `licence` is
    empty for layouts that say nothing about where the data come from.
    """

    name: str
    corpus: str
    detect: Callable[[Path], bool]
    read: Callable[[Path], Iterator[Utterance]]
    language: str = ""
    licence: str = ""
    source: str = ""
    expects: str = field(default="", compare=False)
    """The layout in one line, for error messages."""


def walk(top: Path) -> Iterator[tuple[Path, list[str]]]:
    """Directories from `top` down with the names of their files, both sorted; links are followed, each place once.

    Hidden names (`.x`) are left out: they are no recordings (macOS leaves `._x.wav` beside `x.wav`).
    Raises LstError for a directory that cannot be read.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [str(top)]
    while waiting:
        directory = waiting.pop()
        try:
            stat = os.stat(directory)
            if (stat.st_dev, stat.st_ino) in seen:
                continue
            seen.add((stat.st_dev, stat.st_ino))
            directories: list[str] = []
            files: list[str] = []
            with os.scandir(directory) as entries:
                for entry in entries:
                    if not entry.name.startswith("."):
                        (directories if entry.is_dir() else files).append(entry.name)
        except OSError as error:
            raise LstError(f"{directory} cannot be read ({error.strerror}).") from error
        yield Path(directory), sorted(files)
        waiting.extend(os.path.join(directory, name) for name in sorted(directories, reverse=True))


def first_file(top: Path, matches: Callable[[str], bool], directories: int = 5000) -> Path | None:
    """The first file whose name matches, looking into at most so many directories."""
    for count, (directory, files) in enumerate(walk(top)):
        for name in files:
            if matches(name):
                return directory / name
        if count >= directories:
            break
    return None


def is_audio(name: str) -> bool:
    """Whether a file name has an extension that is taken for audio."""
    return name.lower().endswith(EXTENSIONS)


def find_audio(stem: Path, extensions: tuple[str, ...] = EXTENSIONS) -> Path:
    """The recording called `stem` plus an extension; the first extension if there is none, so that it is missed."""
    for extension in extensions:
        path = stem.with_name(stem.name + extension)
        if path.is_file():
            return path
    return stem.with_name(stem.name + extensions[0])


def split_line(line: Line, separator: str | None = None) -> tuple[str, str]:
    """(key, rest) of a line such as `84-121123-0000 GO DO YOU HEAR`; the rest may be empty."""
    parts = line.text.strip().split(separator, 1) if separator is None else line.text.split(separator, 1)
    return parts[0].strip(), parts[1].strip() if len(parts) > 1 else ""


def read_map(path: Path, separator: str | None = None) -> dict[str, tuple[str, Problem | None]]:
    """A file of `key value` lines as a dictionary; a key that comes twice keeps its first value and is marked."""
    found: dict[str, tuple[str, Problem | None]] = {}
    for line in read_lines(path):
        key, value = split_line(line, separator)
        if key in found:
            found[key] = (found[key][0], ("duplicate-id", f"{path.name}, line {line.number}: {key} comes twice"))
        else:
            found[key] = (value, line.problem)
    return found
