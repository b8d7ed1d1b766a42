"""Where texts come from and under which licence: `corpus.json` beside them, as for recordings."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lst.errors import LstError

CARD_FILE = "corpus.json"


@dataclass(frozen=True)
class TextSource:
    """A source of text: its name, which begins row ids, its root, and its parts."""

    name: str
    root: Path
    parts: tuple[dict[str, str], ...]

    @property
    def provenance(self) -> list[dict[str, str]]:
        """The parts as a manifest records them: {corpus, licence, source}."""
        return [{key: part.get(key, "") for key in ("corpus", "licence", "source")} for part in self.parts]

    def named(self, paths: Sequence[Path]) -> Iterator[tuple[str, Path]]:
        """Each file with its name below the root, as row ids spell it."""
        for path in paths:
            yield path.relative_to(self.root).as_posix(), path

    def part(self, name: str) -> dict[str, str]:
        """The part that the file `name` belongs to: that of its top folder, else the only one, else none."""
        folder = name.split("/")[0] if "/" in name else ""
        for part in self.parts:
            if part.get("path", "") == folder and folder:
                return part
        general = [part for part in self.parts if not part.get("path")]
        return general[0] if len(general) == 1 else {}


def find_source(src: Path) -> TextSource:
    """What `corpus.json` in the folder of `src` says, or that nothing is stated. Raises LstError if it is wrong."""
    root = src if src.is_dir() else src.parent
    card = root / CARD_FILE
    default = (src.name if src.is_dir() else src.name.split(".")[0]) or "text"
    if not card.is_file():
        return TextSource(default, root, ({"corpus": default, "licence": "not stated", "source": "not stated"},))
    try:
        body: Any = json.loads(card.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise LstError(f"{card} cannot be read as JSON ({error}).") from error
    parts = body.get("provenance") if isinstance(body, dict) else None
    if not isinstance(parts, list) or not parts:
        raise LstError(f'{card} has no "provenance".', hint="It is a list of {corpus, licence, source, path}.")
    for part in parts:
        if not isinstance(part, dict) or not all(isinstance(value, str) for value in part.values()):
            raise LstError(f"{card}: every entry of provenance holds strings.")
        if not part.get("corpus") or not part.get("licence"):
            raise LstError(f"{card}: every entry of provenance needs a corpus and a licence.")
    name = body.get("name")
    return TextSource(name if isinstance(name, str) and name else default, root, tuple(parts))
