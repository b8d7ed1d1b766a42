"""What an interrupted evaluation had made: a JSON object a line, each written as it came."""

import json
from pathlib import Path
from typing import Any

from lst.manifest import write_atomic


def read_done(path: Path) -> dict[str, dict[str, Any]]:
    """Entries by their `id`; a line that was cut short is taken away, so that the next one does not join it."""
    found: dict[str, dict[str, Any]] = {}
    if path.is_file():
        whole, _, rest = path.read_text(encoding="utf-8").rpartition("\n")
        for line in whole.splitlines():
            entry = json.loads(line)
            found[entry["id"]] = entry
        if rest:
            write_atomic(path, whole + "\n" if whole else "")
    return found
