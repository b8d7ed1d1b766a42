"""What every benchmark layout becomes: items of text and of paths to sound files, and what was rejected."""

import gzip
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lst.errors import LstError
from lst.manifest import Rejection

Format = Literal["storycloze-csv", "slamkit", "cross-modal", "jsonl", "hellaswag", "piqa", "blimp", "swuggy", "sblimp"]

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")


@dataclass(frozen=True)
class SourceItem:
    """An item as its files give it. A modality it lacks is an empty string or an empty tuple.

    `choices_*`: the endings, `label` the index of the right one; `*_audio`: paths relative to the benchmark's root.
    `group`: items that depend on each other, such as readings by several voices; `category`: what accuracy is broken
    down by, such as BLiMP's paradigms. `has_context` is False where the layout has no prompt: the endings are whole.
    """

    id: str
    label: int
    group: str = ""
    category: str = ""
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


def read_lines(path: Path) -> Iterator[str]:
    """Lines of a text file, gzipped or not; invalid UTF-8 becomes U+FFFD, a byte-order mark is dropped."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as file:
            yield from file
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise LstError(f"Cannot read {path}: {reason}.") from error
