"""Content hashes: of files, of bytes, of plain JSON values."""

import hashlib
import json
from pathlib import Path
from typing import Any


def sha256_bytes(data: bytes) -> str:
    """Hex SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """One spelling per value: sorted keys, no spaces. Raises ValueError or TypeError for what JSON lacks (NaN too)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_json(value: Any) -> str:
    """Hex SHA-256 of a plain JSON value in its canonical spelling."""
    return sha256_bytes(canonical_json(value).encode())


def is_held_out(row_id: str, share: float) -> bool:
    """Whether a row measures the fit: a hash of its id, the same on every machine."""
    digest = hashlib.sha256(row_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
