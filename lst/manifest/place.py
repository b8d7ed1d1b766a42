"""Where an output is made and kept: beside its place while it is unfinished, renamed into it when it is whole."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lst.errors import LstError
from lst.manifest.files import explain_os_errors, fsync_directory, remove
from lst.manifest.manifest import MANIFEST_FILE, Manifest, StageSpec, load_manifest

LOCK_FILE = ".lock"


def existing_output(out: Path, spec: StageSpec, *, force: bool = False) -> Manifest | None:
    """What is at `out`: the manifest if it is just what `spec` would make, None if the place is free to use.

    Raises LstError if it is something else: a file, a directory not ours, or (without `force`) another manifest.
    """
    previous = _previous(out)
    if previous.is_dir() and not out.exists():  # killed between the two renames of a replacement
        previous.rename(out)
    if not out.exists() and not out.is_symlink():
        return None
    if not out.is_dir():
        raise LstError(f"{out} is a file, not a directory.", hint="Choose another --out.")
    if not any(out.iterdir()):
        return None
    if not (out / MANIFEST_FILE).is_file():
        raise LstError(
            f"{out} exists and is not an output of lst (no manifest.json).",
            hint="It is left untouched: choose another --out.",
        )
    try:
        manifest = load_manifest(out)
    except LstError:
        if force:
            return None
        raise
    if manifest.id == spec.id:
        return manifest
    if not force:
        raise LstError(
            f"{out} holds {manifest.schema} made by {manifest.stage} from other inputs or settings.",
            hint="Choose another --out, or replace it with --force.",
        )
    return None


def partial_path(out: Path, spec_id: str) -> Path:
    """Where the unfinished output with this id is kept."""
    return out.with_name(f"{out.name}.partial-{spec_id[:12]}")


def _previous(out: Path) -> Path:
    return out.with_name(f"{out.name}.previous")


@contextmanager
def partial_directory(out: Path, spec: StageSpec) -> Iterator[Path]:
    """The unfinished output, for one process at a time; it stays where there is something to go on from."""
    out = Path(os.path.abspath(out))
    partial = partial_path(out, spec.id)
    with explain_os_errors(f"creating {partial}"):
        partial.mkdir(parents=True, exist_ok=True)
        lock = (partial / LOCK_FILE).open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LstError(
                f"Another lst process is making {out} right now.", hint="Wait for it, or stop it first."
            ) from error
        try:
            yield partial
        except Exception:
            if not any(path.is_file() and path.name != LOCK_FILE for path in partial.rglob("*")):
                remove(partial)  # nothing to go on from
            raise


def clear(partial: Path) -> None:
    """Forget what an unfinished output holds."""
    for path in partial.iterdir():
        if path.name != LOCK_FILE:
            remove(path)


def commit(out: Path, partial: Path) -> Manifest:
    """Clear what is not part of the output and rename it into place. Repeating it after a kill is safe."""
    out = Path(os.path.abspath(out))
    manifest = load_manifest(partial)
    keep = {MANIFEST_FILE, *(entry.path for entry in [*manifest.shards, *manifest.artifacts.values()])}
    for path in sorted(partial.rglob("*"), reverse=True):
        name = path.relative_to(partial).as_posix()
        if path.is_dir() and not path.is_symlink():
            if not any(kept.startswith(f"{name}/") for kept in keep):
                remove(path)
        elif name not in keep:
            remove(path)
    fsync_directory(partial)
    previous = _previous(out)
    if out.exists():
        if any(out.iterdir()):
            remove(previous)
            out.rename(previous)
        else:
            out.rmdir()
    partial.rename(out)
    fsync_directory(out.parent)
    remove(previous)
    return load_manifest(out)
