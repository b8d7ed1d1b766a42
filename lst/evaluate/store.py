"""Scores that were computed before, by batch: a killed run goes on, and nothing is computed twice.

One SQLite file per model in the user's cache (`lst.evaluate.data.cache_home`). It is a cache: a damaged file is thrown
away, and deleting it costs time only.
"""

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lst.manifest.files import explain_os_errors, remove

Rows = list[list[Any]]

WAIT_SECONDS = 60.0
"""How long to wait for another process that writes to the same file."""


class ScoreStore:
    """Lists of plain rows by key (hex SHA-256 of all they depend on). What `put` returned from survives a kill."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with explain_os_errors(f"creating {path.parent}"):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = self._open()

    def get(self, key: str) -> Rows | None:
        """The rows of `key`, or None if they are not there."""
        found = self._connection.execute("SELECT rows FROM batches WHERE key = ?", (key,)).fetchone()
        rows: Rows | None = None if found is None else json.loads(found[0])
        return rows

    def put(self, key: str, rows: Sequence[Sequence[Any]]) -> None:
        """Keep `rows`: numbers and strings. Raises LstError if the disk is full."""
        with explain_os_errors(f"writing {self.path}"), self._connection:
            self._connection.execute("INSERT OR REPLACE INTO batches VALUES (?, ?)", (key, json.dumps(rows)))

    def __len__(self) -> int:
        return int(self._connection.execute("SELECT COUNT(*) FROM batches").fetchone()[0])

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def __enter__(self) -> "ScoreStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # busy, or not writable: the file itself is sound
                raise
            for suffix in ("", "-wal", "-shm"):
                remove(self.path.with_name(self.path.name + suffix))
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=WAIT_SECONDS)
        # A killed process loses nothing, a machine that loses power perhaps the last batches: no sync per batch.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("CREATE TABLE IF NOT EXISTS batches (key TEXT PRIMARY KEY, rows TEXT NOT NULL)")
        return connection
