"""Running a recipe: a stage is made if its content id is not what lies in its directory, else left alone."""

import inspect
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lst.errors import LstError
from lst.manifest import (
    Manifest,
    Progress,
    StageSpec,
    explain_os_errors,
    identity_of,
    load_manifest,
    partial_path,
    write_json,
)
from lst.manifest.inspect import differences
from lst.pipeline.kinds import MADE
from lst.pipeline.recipe import Recipe, StageNode

RUN_FILE = "run.json"

Opener = Callable[[str], AbstractContextManager[Progress]]
"""Opens the progress display of a stage, given its name."""


@dataclass
class StageState:
    """A stage's standing: `made` (nothing to do), `continue`, `new`, `changed`, or `waits` for a stage before it."""

    name: str
    state: str
    reasons: list[str] = field(default_factory=list)
    manifest: Manifest | None = None


@dataclass
class StageRun:
    """What happened to a stage in a run."""

    name: str
    manifest: Manifest
    computed: bool
    seconds: float
    reasons: list[str]


def stage_directory(out: Path, name: str) -> Path:
    """Where a recipe's stage lies below the run's directory."""
    return out / name


def plan_recipe(recipe: Recipe, out: Path, only: Iterable[str] = ()) -> list[StageState]:
    """What a run would do and why; nothing is written."""
    states: dict[str, StageState] = {}
    for name in recipe.needed_for(list(only) or recipe.stages):
        node = recipe.stages[name]
        upstream = [states[source] for source in node.inputs.values()]
        waiting = sorted({state.name for state in upstream if state.state != "made"})
        if waiting:
            old = _load_existing(stage_directory(out, name))
            reasons = [f"{source} comes first" for source in waiting]
            if old is not None:
                # Of the models among its settings a stage notes down more than its settings say.
                own = {key: value for key, value in old.config.items() if key in type(node.config).model_fields}
                reasons += _config_reasons(own, node.config.as_json())
            states[name] = StageState(name, "waits", reasons)
            continue
        inputs = {role: states[source].manifest for role, source in node.inputs.items()}
        states[name] = _state(node, inputs, out)
    return list(states.values())


def run_recipe(
    recipe: Recipe,
    out: Path,
    *,
    only: Iterable[str] = (),
    workers: int = 1,
    jobs: int = 1,
    device: str = "auto",
    open_progress: Opener,
    on_stage: Callable[[StageState], None] | None = None,
    on_made: Callable[[StageRun], None] | None = None,
) -> list[StageRun]:
    """Make whatever is not made yet, in order, below `out`. Raises LstError, after which a repeated call continues.

    `jobs`: so many stages at once, each in a process of its own (without progress display; `on_made` hears of each);
    then one that fails stops only those that need it. `device`: cpu, cuda, or auto (a GPU if there is one), for the
    stages that use one.
    """
    with explain_os_errors(f"creating {out}"):
        out.mkdir(parents=True, exist_ok=True)
    _claim(out, recipe)
    names = recipe.needed_for(list(only) or recipe.stages)
    runs: dict[str, StageRun] = {}
    states: dict[str, StageState] = {}

    def look_at(name: str) -> StageState:
        states[name] = _state(recipe.stages[name], inputs_of(name), out)
        if on_stage:
            on_stage(states[name])
        return states[name]

    def take(name: str, manifest: Manifest, computed: bool, seconds: float, peak_mb: int) -> None:
        runs[name] = StageRun(name, manifest, computed, seconds, states[name].reasons)
        _record(out, runs[name], peak_mb)
        if computed and on_made:
            on_made(runs[name])

    def inputs_of(name: str) -> dict[str, Manifest]:
        return {role: runs[source].manifest for role, source in recipe.stages[name].inputs.items()}

    if jobs > 1:
        from lst.pipeline.jobs import Jobs, run_together

        together = Jobs(jobs, [recipe.stages[name].kind.module for name in names])

        def start(name: str) -> Manifest | None:
            made = look_at(name).manifest
            if made is not None:
                take(name, made, False, 0.0, peak_memory_mb())
            else:
                together.start(name, _make, recipe.stages[name], inputs_of(name), out, 1, device)
            return made

        needs = {name: list(recipe.stages[name].inputs.values()) for name in names}
        run_together(
            names, needs, together, start, lambda name, made, seconds, peak: take(name, made, True, seconds, peak)
        )
        return [runs[name] for name in names]
    for name in names:
        begin = time.monotonic()
        manifest = look_at(name).manifest
        computed = manifest is None
        if manifest is None:
            with open_progress(name) as progress:
                manifest = _make(recipe.stages[name], inputs_of(name), out, workers, device, progress)
        take(name, manifest, computed, time.monotonic() - begin, peak_memory_mb())
    return [runs[name] for name in names]


def stage_spec(node: StageNode, inputs: dict[str, Any]) -> StageSpec:
    """What the stage would make from these inputs."""
    arguments, config = node.fed(inputs)
    spec: StageSpec = node.kind.spec(*arguments, config)
    return spec


def _make(
    node: StageNode,
    inputs: dict[str, Manifest],
    out: Path,
    workers: int,
    device: str,
    progress: Progress = lambda done, total, unit: None,
) -> Manifest:
    arguments, config = node.fed(inputs)
    directory = stage_directory(out, node.name)
    takes_device = "device" in inspect.signature(node.kind.run).parameters
    more = {"device": found_device(device)} if takes_device else {}
    with _training_on(device):
        manifest: Manifest = node.kind.run(
            *arguments, directory, config, workers=workers, progress=progress, force=True, **more
        )
    return manifest


@contextmanager
def _training_on(device: str) -> Iterator[None]:
    """What trains asks fairseq2 for its device, which by itself takes a GPU if there is one."""
    if device == "auto":
        yield
        return
    before = os.environ.get("FAIRSEQ2_DEVICE")
    os.environ["FAIRSEQ2_DEVICE"] = found_device(device)
    try:
        yield
    finally:
        os.environ.pop("FAIRSEQ2_DEVICE")
        if before is not None:
            os.environ["FAIRSEQ2_DEVICE"] = before


def found_device(device: str) -> str:
    """`device`, where it is `auto`: cuda if there is a GPU, else cpu. Raises LstError if cuda is asked for in vain."""
    if device == "cpu":
        return device
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "auto":
        return "cpu"
    raise LstError(f"There is no device {device}.", hint="Use --device cpu.")


def _state(node: StageNode, inputs: dict[str, Any], out: Path) -> StageState:
    if node.kind_name == MADE:
        assert node.source is not None  # the recipe was checked
        return StageState(node.name, "made", [], load_manifest(node.source))
    spec = stage_spec(node, inputs)
    directory = stage_directory(out, node.name)
    old = _load_existing(directory)
    if old is not None and old.id == spec.id:
        return StageState(node.name, "made", [], old)
    if old is None:
        begun = partial_path(directory, spec.id).is_dir()
        return StageState(node.name, "continue" if begun else "new", ["was interrupted" if begun else "not made yet"])
    before = identity_of(old)
    after = spec.identity
    # What a stage learns while it runs (a model's own fingerprint) is in the manifest, never in the plan.
    planned = after["fingerprints"]
    before["fingerprints"] = {key: value for key, value in before["fingerprints"].items() if key in planned}
    return StageState(node.name, "changed", [_reason(node, *item) for item in differences(before, after)])


def _reason(node: StageNode, path: str, old: Any, new: Any) -> str:
    section, _, key = path.partition(".")
    if section == "inputs":
        return f"its input {node.inputs.get(key, key)} has changed"
    if section == "files":
        return f"the source {key} has changed"
    if section == "config":
        return f"{key}: {json.dumps(old)} -> {json.dumps(new)}"
    return f"{path}: {_short(old)} -> {_short(new)}"


def _config_reasons(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [f"{key}: {json.dumps(before)} -> {json.dumps(after)}" for key, before, after in differences(old, new)]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 16 else f"{text[:12]}…"


def _load_existing(directory: Path) -> Manifest | None:
    """The manifest at `directory`, or None: a damaged one is made again, as if it were not there."""
    try:
        return load_manifest(directory)
    except LstError:
        return None


def _claim(out: Path, recipe: Recipe) -> None:
    """Mark `out` as ours; refuse a directory with something else in it."""
    if (out / RUN_FILE).is_file():
        return
    if any(out.iterdir()):
        raise LstError(
            f"{out} is not empty and was not made by lst run.", hint="It is left untouched: choose another --out."
        )
    write_json(out / RUN_FILE, {"recipe": recipe.name, "stages": {}})


def read_runs(out: Path) -> dict[str, Any]:
    """What `run.json` records: the recipe's name, and per stage how long it took when it was last made."""
    path = out / RUN_FILE
    if not path.is_file():
        return {"recipe": "", "stages": {}}
    body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return body


def _record(out: Path, run: StageRun, peak_mb: int) -> None:
    body = read_runs(out)
    if run.computed or run.name not in body["stages"]:
        entry: dict[str, Any] = {"id": run.manifest.id, "seconds": round(run.seconds, 2), "peak_mb": peak_mb}
        if run.manifest.path.resolve() != stage_directory(out, run.name).resolve():
            entry["path"] = os.path.relpath(run.manifest.path, out)  # made elsewhere
        body["stages"][run.name] = entry
        write_json(out / RUN_FILE, body)


def peak_memory_mb() -> int:
    """Largest resident set so far of this process, or of its largest child, in MiB."""
    import resource

    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return int(max(own, children) // 1024)
