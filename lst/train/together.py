"""One output made by several processes: the first one owns the directory, the others work in it and wait."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from lst.errors import LstError
from lst.manifest import (
    DirectoryResult,
    Manifest,
    StageSpec,
    build_directory,
    existing_output,
    load_manifest,
    partial_path,
)
from lst.manifest.files import remove
from lst.manifest.manifest import MANIFEST_FILE

COMMIT_SECONDS = 600.0
"""How long other processes wait for the first one to hash and rename the finished directory."""


def process_rank() -> int:
    """This process's number under torchrun or Slurm, 0 when it is alone."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def build_together(
    out: Path,
    spec: StageSpec,
    make: Callable[[Path], DirectoryResult],
    *,
    force: bool = False,
    fresh: bool = False,
) -> Manifest:
    """`build_directory`, by all processes that torchrun started.

    Every process calls `make` with the same directory; what the first one returns is committed. `fresh`: whatever an
    interrupted run left is thrown away first. Raises LstError as `build_directory` does.
    """
    partial = partial_path(Path(os.path.abspath(out)), spec.id)
    if process_rank() == 0:
        if fresh and existing_output(out, spec, force=force) is None:
            remove(partial)
        return build_directory(out, spec, make, force=force)
    made = existing_output(out, spec, force=force)
    if made is not None:
        return made
    if not (partial / MANIFEST_FILE).exists():
        make(partial)
    return _wait_for(out, spec.id)


def _wait_for(out: Path, spec_id: str) -> Manifest:
    until = time.monotonic() + COMMIT_SECONDS
    while time.monotonic() < until:
        try:
            manifest = load_manifest(out)
        except LstError:
            manifest = None
        if manifest is not None and manifest.id == spec_id:
            return manifest
        time.sleep(0.2)
    raise LstError(f"{out} was not finished by the first process in {COMMIT_SECONDS:.0f} s.", hint="See its log.")
