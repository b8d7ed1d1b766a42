"""From a row of an audio manifest back to its samples."""

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from lst.audio.containers import container_of, is_member, read_member
from lst.audio.decode import read_audio
from lst.audio.errors import AudioError
from lst.errors import LstError
from lst.manifest import Manifest, check_hash, sha256_bytes

if TYPE_CHECKING:
    import numpy as np


def row_audio_path(manifest: Manifest, row: Mapping[str, Any]) -> str:
    """Path (or address inside an archive) of a row's recording.

    `location.root` is absolute or relative to the manifest's directory. `audio_path` must not leave it: LstError.
    """
    relative = PurePosixPath(row["audio_path"])
    if relative.is_absolute() or ".." in relative.parts:
        raise LstError(
            f"{manifest.path}: the row {row['id']} points outside the recordings ({row['audio_path']!r}).",
            hint="The manifest is damaged or not to be trusted.",
        )
    root = manifest.location.get("root")
    if root is None:
        raise LstError(f"{manifest.path} ({manifest.schema}) does not say where its recordings are.")
    return os.path.normpath(manifest.path / root / relative)


def open_row_audio(manifest: Manifest, row: Mapping[str, Any]) -> "np.ndarray":
    """The samples of a row: (n,) float32 at 16 kHz, mono.

    The recording is compared with the SHA-256 in the row, once per process and file state. Raises AudioError if it is
    gone (`audio-missing`) or not the one that was ingested (`audio-changed`), or as `read_audio`.
    """
    path = row_audio_path(manifest, row)
    _verify(manifest, row, path)
    return read_audio(path, offset_s=row["offset_s"], duration_s=row["duration_s"])


def _verify(manifest: Manifest, row: Mapping[str, Any], path: str) -> None:
    container = Path(container_of(path))
    if not container.is_file():
        raise AudioError(
            f"{container}, the recording of {row['id']}, is gone.",
            reason="audio-missing",
            hint=f"{manifest.path} refers to the recordings where they were ingested: put them back, or ingest again.",
        )
    if is_member(path):
        stat = container.stat()
        same = _member_sha256(path, stat.st_size, stat.st_mtime_ns) == row["sha256"]
    else:
        try:
            check_hash(container, row["sha256"])
            same = True
        except LstError:
            same = False
    if not same:
        raise AudioError(
            f"{path} has changed since it was ingested ({row['id']}).",
            reason="audio-changed",
            hint="Ingest it again.",
        )


@lru_cache(maxsize=65536)
def _member_sha256(address: str, size: int, mtime_ns: int) -> str:
    return sha256_bytes(read_member(address))
