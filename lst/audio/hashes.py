"""SHA-256 of source files, remembered by (path, size, time of change): planning again reads no audio.

The memory is an SQLite file in the user's cache directory. It is a convenience: where it cannot be written or is
damaged everything works without it, only slower.
"""

import os
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lst.audio.containers import container_of, is_member, member_size, read_member
from lst.audio.errors import AudioError
from lst.manifest import sha256_bytes, sha256_file

_RECENT = 100_000
"""Hashes kept in memory: many utterances may lie in one recording."""

_SETTLED_NS = 2_000_000_000
"""A file changed less than two seconds ago may change again within the clock's resolution: it is not remembered."""

Key = tuple[str, int, int]


def cache_directory() -> Path:
    """$LST_CACHE, else `lst` in the user's cache directory. It need not exist."""
    configured = os.environ.get("LST_CACHE")
    if configured:
        return Path(configured)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path(os.path.expanduser("~")) / ".cache") / "lst"


class FileHashes:
    """Hashes of recordings, by address. A context manager, for it holds a database and threads."""

    def __init__(self, directory: Path | None = None) -> None:
        self._database = _open_database((directory or cache_directory()) / "audio-sha256.sqlite")
        self._recent: OrderedDict[Key, str] = OrderedDict()
        self._pool: ThreadPoolExecutor | None = None
        self.computed = 0

    def __enter__(self) -> "FileHashes":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        if self._database is not None:
            self._database.close()

    def of(self, addresses: Iterable[str]) -> dict[str, tuple[str, int] | AudioError]:
        """Hash and size in bytes of every recording, or why it has none. Files are read in threads."""
        result: dict[str, tuple[str, int] | AudioError] = {}
        missing: list[tuple[str, Key]] = []
        for address in dict.fromkeys(addresses):
            try:
                key = _key(address)
            except AudioError as error:
                result[address] = error
                continue
            known = self._recall(key)
            if known is None:
                missing.append((address, key))
            else:
                result[address] = (known, member_size(address, key[1]))
        for (address, key), found in zip(missing, self._compute([address for address, _ in missing]), strict=True):
            if isinstance(found, str):
                self._remember(key, found)
                result[address] = (found, member_size(address, key[1]))
            else:
                result[address] = found
        if missing:
            self._commit()
        return result

    def _compute(self, addresses: list[str]) -> Iterable[str | AudioError]:
        self.computed += len(addresses)
        if len(addresses) < 4 or any(map(is_member, addresses)):  # archives are read in order, one block at a time
            return map(_hash, addresses)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        return self._pool.map(_hash, addresses)

    def _recall(self, key: Key) -> str | None:
        found = self._recent.get(key)
        if found is None and self._database is not None:
            try:
                row = self._database.execute(
                    "SELECT sha256 FROM hashes WHERE path = ? AND size = ? AND mtime_ns = ?", key
                ).fetchone()
            except sqlite3.Error:
                self._give_up()
                return None
            if row is not None:
                found = str(row[0])
                self._keep(key, found)
        return found

    def _remember(self, key: Key, sha256: str) -> None:
        self._keep(key, sha256)
        if self._database is not None and abs(time.time_ns() - key[2]) > _SETTLED_NS:
            try:
                self._database.execute("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?)", (*key, sha256))
            except sqlite3.Error:
                self._give_up()

    def _keep(self, key: Key, sha256: str) -> None:
        self._recent[key] = sha256
        if len(self._recent) > _RECENT:
            self._recent.popitem(last=False)

    def _commit(self) -> None:
        """Batch by batch: hashing a large corpus takes hours, and may be interrupted."""
        if self._database is not None:
            try:
                self._database.commit()
            except sqlite3.Error:
                self._give_up()

    def _give_up(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


def _open_database(path: Path) -> sqlite3.Connection | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(path, timeout=10)
        database.execute("PRAGMA synchronous = OFF")
        database.execute(
            "CREATE TABLE IF NOT EXISTS hashes (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, sha256 TEXT)"
        )
    except (OSError, sqlite3.Error):
        return None
    return database


def _key(address: str) -> Key:
    path = container_of(address)
    try:
        stat = os.stat(path)
    except OSError as error:
        raise AudioError(f"{path} does not exist ({error.strerror}).", reason="audio-missing") from error
    except ValueError as error:  # a null byte in the name
        raise AudioError(f"{path!r} is not a path.", reason="audio-missing") from error
    if not Path(path).is_file():
        raise AudioError(f"{path} is not a regular file.", reason="audio-missing")
    return os.path.abspath(address), stat.st_size, stat.st_mtime_ns


def _hash(address: str) -> str | AudioError:
    try:
        return sha256_bytes(read_member(address)) if is_member(address) else sha256_file(Path(address))
    except AudioError as error:
        return error
    except OSError as error:
        return AudioError(f"{address} cannot be read ({error.strerror}).", reason="audio-unreadable")
