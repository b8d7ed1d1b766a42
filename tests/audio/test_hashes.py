"""The memory of file hashes."""

import hashlib
import os
import sqlite3

import pytest

from lst.audio.errors import AudioError
from lst.audio.hashes import FileHashes, cache_directory


def settle(path):
    """Make a file look older than the two seconds in which it is not trusted."""
    os.utime(path, ns=(1_700_000_000_000_000_000,) * 2)


def test_hashes_are_computed_once(tmp_path):
    files = []
    for index in range(6):
        files.append(str(tmp_path / f"{index}.wav"))
        (tmp_path / f"{index}.wav").write_bytes(bytes([index]) * 100)
        settle(files[-1])
    with FileHashes() as hashes:
        first = hashes.of(files)
        assert hashes.computed == 6
    assert first[files[3]] == (hashlib.sha256(bytes([3]) * 100).hexdigest(), 100)
    with FileHashes() as hashes:
        assert hashes.of(files) == first
        assert hashes.computed == 0
    (tmp_path / "3.wav").write_bytes(b"other" * 20)  # same size, another time
    with FileHashes() as hashes:
        changed = hashes.of(files)
        assert hashes.computed == 1
    assert changed[files[3]] != first[files[3]]


def test_a_file_just_written_is_not_trusted(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"one")
    for _ in range(2):
        with FileHashes() as hashes:
            hashes.of([str(path)])
            assert hashes.computed == 1


def test_missing_and_strange_paths(tmp_path):
    with FileHashes() as hashes:
        found = hashes.of([str(tmp_path / "none.wav"), str(tmp_path), "a\0b.wav"])
    assert [isinstance(value, AudioError) and value.reason for value in found.values()] == ["audio-missing"] * 3


@pytest.mark.parametrize("broken", ["file", "garbage", "schema"])
def test_a_broken_cache_is_done_without(tmp_path, monkeypatch, broken):
    place = tmp_path / "cache"
    if broken == "file":
        place.write_text("not a directory")
    else:
        place.mkdir()
        database = place / "audio-sha256.sqlite"
        if broken == "garbage":
            database.write_bytes(b"garbage" * 1000)
        else:
            with sqlite3.connect(database) as connection:
                connection.execute("CREATE TABLE hashes (other TEXT)")
    monkeypatch.setenv("LST_CACHE", str(place))
    path = tmp_path / "a.wav"
    path.write_bytes(b"one")
    settle(path)
    with FileHashes() as hashes:
        assert hashes.of([str(path)])[str(path)] == (hashlib.sha256(b"one").hexdigest(), 3)


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("LST_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "lst"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_directory() == tmp_path / "home" / ".cache" / "lst"
