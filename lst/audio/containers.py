"""Recordings inside archives: how they are addressed and read.

An *address* is what the column `audio_path` holds: a path, or a path and a member,

    train/clean/a.flac                                   a file
    train/clean/clean_000000.tar!1536+20480!a.flac       20,480 bytes from byte 1,536 of a tar: its member a.flac
    train/train-00000-of-00004.parquet!17                row 17 of a Parquet file, column `audio` (bytes)

The byte range makes a member of a tar as cheap to open as a file: no index, no scan.
"""

import io
import re
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from lst.audio.errors import AudioError

_TAR = re.compile(r"(?P<file>.*\.tar)!(?P<offset>\d+)\+(?P<size>\d+)!(?P<member>.+)", re.DOTALL)
_PARQUET = re.compile(r"(?P<file>.*\.parquet)!(?P<row>\d+)", re.DOTALL)


def container_of(address: str) -> str:
    """The file that holds the recording: the address itself unless it names a member."""
    match = _TAR.fullmatch(address) or _PARQUET.fullmatch(address)
    return match["file"] if match else address


def readable_name(address: str) -> str:
    """The address as a path without byte ranges: `a.tar!1536+20480!b.flac` is `a.tar/b.flac`."""
    if match := _TAR.fullmatch(address):
        return f"{match['file']}/{match['member']}"
    if match := _PARQUET.fullmatch(address):
        return f"{match['file']}/{match['row']}"
    return address


def tar_address(tar: str, offset: int, size: int, member: str) -> str:
    """Address of the member whose data are `size` bytes at `offset`."""
    return f"{tar}!{offset}+{size}!{member}"


def parquet_address(file: str, row: int) -> str:
    """Address of row `row`."""
    return f"{file}!{row}"


def is_member(address: str) -> bool:
    """Whether the recording lies inside an archive."""
    return container_of(address) != address


def member_size(address: str, container_size: int) -> int:
    """Bytes of the recording, exactly for files and tar members, on average for rows of a Parquet file."""
    if match := _TAR.fullmatch(address):
        return int(match["size"])
    if match := _PARQUET.fullmatch(address):
        stat = Path(match["file"]).stat()
        return container_size // max(1, _group_starts(match["file"], stat.st_size, stat.st_mtime_ns)[-1])
    return container_size


def read_member(address: str) -> bytes:
    """The encoded bytes of a member. Raises AudioError (audio-missing, audio-unreadable)."""
    try:
        if match := _TAR.fullmatch(address):
            with open(match["file"], "rb") as file:
                file.seek(int(match["offset"]))
                data = file.read(int(match["size"]))
            if len(data) < int(match["size"]):
                raise AudioError(f"{match['file']} ends inside {match['member']}.", reason="audio-truncated")
            return data
        if match := _PARQUET.fullmatch(address):
            return _parquet_bytes(match["file"], int(match["row"]))
    except FileNotFoundError as error:
        raise AudioError(f"{container_of(address)} does not exist.", reason="audio-missing") from error
    except OSError as error:
        raise AudioError(f"{address} cannot be read ({error}).", reason="audio-unreadable") from error
    raise AudioError(f"{address} is not a member of an archive.", reason="audio-unreadable")


def open_bytes(address: str) -> IO[bytes] | str:
    """What to hand to a decoder: the path of a plain file, or the bytes of a member."""
    return io.BytesIO(read_member(address)) if is_member(address) else address


def _parquet_bytes(path: str, row: int) -> bytes:
    stat = Path(path).stat()
    group, first = _row_group(path, row, stat.st_size, stat.st_mtime_ns)
    column = _audio_column(path, group, stat.st_size, stat.st_mtime_ns)
    value = column[row - first].as_py()
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes) or not data:
        raise AudioError(f"{path}, row {row} holds no audio bytes.", reason="audio-missing")
    return data


@lru_cache(maxsize=64)
def _group_starts(path: str, size: int, mtime: int) -> tuple[int, ...]:
    """First row of every row group, and the number of rows. Size and time are there to notice a changed file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path)
    except pa.ArrowInvalid as error:
        raise AudioError(f"{path} is not a Parquet file ({error}).", reason="audio-unreadable") from error
    starts = [0]
    for group in range(metadata.num_row_groups):
        starts.append(starts[-1] + metadata.row_group(group).num_rows)
    return tuple(starts)


def _row_group(path: str, row: int, size: int, mtime: int) -> tuple[int, int]:
    from bisect import bisect_right

    starts = _group_starts(path, size, mtime)
    if not 0 <= row < starts[-1]:
        raise AudioError(f"{path} has {starts[-1]} rows, no row {row}.", reason="audio-missing")
    group = bisect_right(starts, row) - 1
    return group, starts[group]


@lru_cache(maxsize=1)
def _audio_column(path: str, group: int, size: int, mtime: int) -> Any:
    """The audio of one row group. Rows are read in order, so the last group is all that is worth keeping."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path).read_row_group(group, columns=["audio"]).column("audio")
    except (pa.ArrowInvalid, KeyError) as error:
        raise AudioError(f"{path}: no readable column `audio` ({error}).", reason="audio-unreadable") from error
