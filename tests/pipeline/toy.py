"""Three toy kinds of stage for the runner's tests: numbers are read from a file, added up, and multiplied."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from lst.config import StageConfig
from lst.errors import LstError
from lst.manifest import DirectoryResult, Manifest, Progress, StageSpec, build_directory, load_manifest, sha256_file
from lst.pipeline.kinds import KINDS, StageKind

SLEEPER, KILLER = 2000, -9
"""A scale with which reading takes ten minutes, and an offset with which adding kills its process."""

MADE: list[str] = []
"""Names of the stages that really ran."""


class Inner(StageConfig):
    rate: float = 1.0


class ReadConfig(StageConfig):
    scale: int = 1


class AddConfig(StageConfig):
    offset: int = 0
    seed: int = 0
    fail: bool = False
    inner: Inner = Inner()
    extra: Path | None = None

    def as_json(self) -> dict[str, Any]:
        return {key: value for key, value in super().as_json().items() if key != "extra"}


def read_spec(source: Path, config: ReadConfig) -> StageSpec:
    if not source.is_file():
        raise LstError(f"{source} does not exist.")
    return StageSpec("lst.eval/1", "read", 1, config.as_json(), files={"numbers": sha256_file(source)})


def read(source: Path, out: Path, config: ReadConfig, *, workers: int, progress: Progress, force: bool) -> Manifest:
    if config.scale == SLEEPER:
        time.sleep(600)
    value = sum(map(int, source.read_text().split())) * config.scale
    return _build(out, read_spec(source, config), value, force)


def add_spec(left: Manifest, right: Manifest, config: AddConfig) -> StageSpec:
    more = {"extra": load_manifest(config.extra)} if config.extra else {}
    return StageSpec("lst.eval/1", "add", 1, config.as_json(), {"left": left, "right": right, **more})


def add(left: Manifest, right: Manifest, out: Path, config: AddConfig, **options: Any) -> Manifest:
    if config.fail:
        raise LstError("It failed.")
    if config.offset == KILLER:
        os.kill(os.getpid(), signal.SIGKILL)
    value = left.totals["value"] + right.totals["value"] + config.offset
    value += load_manifest(config.extra).totals["value"] if config.extra else 0
    options["progress"](1, 1, "sums")
    return _build(out, add_spec(left, right, config), value, options["force"])


def _build(out: Path, spec: StageSpec, value: float, force: bool) -> Manifest:
    def make(directory: Path) -> DirectoryResult:
        MADE.append(out.name)
        return DirectoryResult([], {"value": value})

    return build_directory(out, spec, make, force=force)


TOY_KINDS = {
    "made": KINDS["made"],
    "read": StageKind("tests.pipeline.toy", "ReadConfig", "read_spec", "read", needs_source=True),
    "add": StageKind(
        "tests.pipeline.toy", "AddConfig", "add_spec", "add", {"left": "one", "right": "two"}, models=("extra",)
    ),
}
