"""Files that are either whole or absent: write beside, sync, rename."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lst.errors import LstError


def fsync_directory(path: Path) -> None:
    """Make the names inside a directory durable (a rename is only durable once its directory is)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_file(path: Path) -> None:
    """Make the contents of a file durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write `data` so that a reader, or a machine that dies midway, sees the old file or the new one, never a part."""
    with written_aside(path) as temporary, temporary.open("wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A name beside `path` to write a file under, durably; it then takes the place of `path`.

    If writing fails the name is removed again: a full disk gets its space back.
    """
    temporary = path.with_name(f".{path.name}.writing")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, indented for people."""
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def inside(root: Path, relative: str, *, what: str) -> Path:
    """`root / relative`, refused if it leaves `root`.

    Names in manifests and archives come from elsewhere: an absolute path, a `..` or a symbolic link must not reach
    other files. Raises LstError.
    """
    path = (root / relative).resolve()
    if not path.is_relative_to(root.resolve()):
        raise LstError(
            f"{what}: the path {relative!r} leaves {root}.", hint="The manifest is damaged or not to be trusted."
        )
    return path


def remove(path: Path) -> None:
    """Delete a file or a directory tree, if it is there. A symbolic link is unlinked, not followed."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


@contextmanager
def explain_os_errors(doing: str) -> Iterator[None]:
    """Turn a full disk or a forbidden path into one sentence that says what was being done."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LstError(
                f"No space left on the device while {doing}.",
                hint="Free some space and run the same command again: what is complete is kept.",
            ) from error
        if error.errno == errno.EFBIG:
            raise LstError(
                f"A file became larger than this system or its limits (ulimit -f) allow while {doing}.",
                hint="Raise the limit, or choose another directory with --out.",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise LstError(
                f"Not allowed to write while {doing} ({error.strerror}: {error.filename}).",
                hint="Choose another directory with --out.",
            ) from error
        raise
