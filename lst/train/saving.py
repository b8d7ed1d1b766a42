"""The files of a checkpoint: written durably with their hashes, and checked against them. Needs torch, not fairseq2."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from lst.manifest.files import fsync_file
from lst.manifest.hashing import sha256_file

INDEX = "checkpoint.json"


def find_damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint directory, or None if every file is there with the recorded hash."""
    try:
        index = json.loads((checkpoint / INDEX).read_text(encoding="utf-8"))
        files: dict[str, dict[str, Any]] = index["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{INDEX} is missing or not readable"
    for name, entry in files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != entry["bytes"] or sha256_file(path) != entry["sha256"]:
            return f"{name} is not what was written"
    return None


class _HashingFile:
    """A binary file that hashes what is written to it, and remembers a failure that torch would report as another."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb")
        self._hash = hashlib.sha256()
        self.error: OSError | None = None
        self.bytes = 0

    def write(self, data: bytes) -> int:
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self._hash.update(data)
        self.bytes += len(data)
        return len(data)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def entry(self) -> dict[str, Any]:
        return {"bytes": self.bytes, "sha256": self._hash.hexdigest()}


def save_state(path: Path, state: dict[str, Any]) -> dict[str, Any]:
    """Write `state` durably and return its size and hash. Raises OSError if it cannot be written."""
    file = _HashingFile(path)
    try:
        torch.save(state, file)  # type: ignore[arg-type]
        file.flush()
    except (OSError, RuntimeError):
        # torch turns an error of the file into a RuntimeError of its own.
        if file.error is not None:
            raise file.error from None
        raise
    finally:
        file.close()
    fsync_file(path)
    return file.entry()
