"""Making a stage's output: complete shards survive a kill, a half-made manifest never appears.

1. Work happens in `OUT.partial-<id>`, named by the content id, so another configuration cannot pick it up.
2. `build_shards`: task k becomes `shards/k.arrow`, written whole; its bookkeeping, `progress/k.json`, comes after it.
   A task with intact bookkeeping is not done again. `build_directory`: the stage keeps its own state in the directory.
3. `manifest.json` is written last, what is not part of the output is cleared, and the directory is renamed to `OUT`.
"""

import functools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lst.errors import LstError
from lst.manifest.files import explain_os_errors, write_atomic, write_json
from lst.manifest.hashing import sha256_file
from lst.manifest.manifest import (
    MANIFEST_FILE,
    REJECTED_FILE,
    FileEntry,
    InputEntry,
    Manifest,
    Progress,
    StageSpec,
    to_json,
)
from lst.manifest.place import clear, commit, existing_output, partial_directory
from lst.manifest.tables import write_table

if TYPE_CHECKING:
    import pyarrow as pa

Task = TypeVar("Task")
Artifact = bytes | Path | Callable[[Path], bytes]


@dataclass(frozen=True)
class Rejection:
    """A row that was left out: its id, a short reason that is counted, and the particulars."""

    id: str
    reason: str
    detail: str = ""


@dataclass
class ShardResult:
    """What a worker makes of one task. `totals` are summed over shards."""

    rows: "Sequence[dict[str, Any]] | pa.Table"
    rejected: Sequence[Rejection] = ()
    totals: Mapping[str, float] = field(default_factory=dict)


@dataclass
class DirectoryResult:
    """What `make` left in its directory: files to keep (relative names), and optionally one table of rows."""

    artifacts: Sequence[str]
    totals: Mapping[str, float] = field(default_factory=dict)
    rows: "Sequence[dict[str, Any]] | pa.Table | None" = None
    rejected: Sequence[Rejection] = ()
    fingerprints: Mapping[str, str] = field(default_factory=dict)


def build_shards(
    out: Path,
    spec: StageSpec,
    tasks: Sequence[Task],
    worker: Callable[[Task], ShardResult],
    *,
    workers: int = 1,
    progress: Progress | None = None,
    force: bool = False,
    max_rejected: float = 1.0,
    location: Mapping[str, str] | None = None,
    artifacts: Mapping[str, Artifact] | None = None,
    fingerprints: Mapping[str, str] | None = None,
) -> Manifest:
    """Make shard k from task k, in `workers` processes, and commit them as one manifest at `out`.

    `artifacts` are files beside the shards, by name: bytes, a file to copy, or a function that gives the bytes once the
    last shard is there, from the unfinished directory. `fingerprints` are recorded beside those of `spec` and are no
    part of the id: of what follows from it, such as a tokenizer trained on the way.

    `worker` must be a pure function of its task (and picklable, for workers > 1): the bytes do not depend on
    `workers`, on order, or on interruptions. An output with the same id is returned as it is; one with another id is
    replaced only with `force`. Raises LstError if every row, or more than the share `max_rejected`, is rejected.
    """
    made = existing_output(out, spec, force=force)
    if made is not None:
        return made
    with partial_directory(out, spec) as partial, explain_os_errors(f"writing {out}"):
        if not (partial / MANIFEST_FILE).exists():
            (partial / "shards").mkdir(exist_ok=True)
            (partial / "progress").mkdir(exist_ok=True)
            done = _run_tasks(partial, spec.schema, tasks, worker, workers, progress)
            rejected = [Rejection(*item) for entry in done for item in entry["rejected"]]
            totals = _sum_totals(entry["totals"] for entry in done)
            shards = [FileEntry(**entry["shard"]) for entry in done]
            rows = sum(shard.rows for shard in shards)
            if rows == 0 and rejected:
                clear(partial)  # nothing to go on from, however many may be rejected
            _check_rejections(spec, rows, rejected, max_rejected)
            for name, content in (artifacts or {}).items():
                write_atomic(partial / name, _artifact_bytes(content, partial))
            _write_manifest(
                out,
                partial,
                spec,
                shards,
                list(artifacts or {}),
                {"rows": rows, **totals},
                rejected,
                fingerprints or {},
                location or {},
            )
        return commit(out, partial)


def build_directory(
    out: Path,
    spec: StageSpec,
    make: Callable[[Path], DirectoryResult],
    *,
    force: bool = False,
    location: Mapping[str, str] | None = None,
) -> Manifest:
    """Let `make` fill a directory and commit it at `out`.

    The directory that `make` gets survives a kill: called again for the same id it finds its own files, and may go on
    from them. Only the artifacts it names are kept in the end. Same rules for an existing output as `build_shards`.
    """
    made = existing_output(out, spec, force=force)
    if made is not None:
        return made
    with partial_directory(out, spec) as partial, explain_os_errors(f"writing {out}"):
        if not (partial / MANIFEST_FILE).exists():
            result = make(partial)
            shards = []
            totals = dict(result.totals)
            if result.rows is not None:
                (partial / "shards").mkdir(exist_ok=True)
                shards.append(_write_shard(partial, 0, result.rows, spec.schema))
                totals = {"rows": shards[0].rows, **totals}
            _write_manifest(
                out,
                partial,
                spec,
                shards,
                list(result.artifacts),
                totals,
                list(result.rejected),
                result.fingerprints,
                location or {},
            )
        return commit(out, partial)


def _run_tasks(
    partial: Path,
    schema: str,
    tasks: Sequence[Task],
    worker: Callable[[Task], ShardResult],
    workers: int,
    progress: Progress | None,
) -> list[dict[str, Any]]:
    done: dict[int, dict[str, Any]] = {}
    for index in range(len(tasks)):
        entry = _finished(partial, index)
        if entry is not None:
            done[index] = entry
    left = [index for index in range(len(tasks)) if index not in done]
    report = progress or (lambda *_: None)
    report(len(done), len(tasks), "shards")
    make = functools.partial(_run_task, partial, schema, worker)
    numbered = {index: (index, tasks[index]) for index in left}
    made: Iterator[tuple[int, dict[str, Any]]]
    if workers <= 1 or len(left) <= 1:
        made = ((index, make(task)) for index, task in numbered.items())
    else:
        # Here, not above: every command loads this module, and must start fast.
        from lst.manifest.workers import in_processes

        made = in_processes(make, numbered, workers)
    for index, entry in made:
        done[index] = entry
        report(len(done), len(tasks), "shards")
    return [done[index] for index in range(len(tasks))]


def _run_task(
    partial: Path, schema: str, worker: Callable[[Task], ShardResult], numbered: tuple[int, Task]
) -> dict[str, Any]:
    index, task = numbered
    result = worker(task)
    with explain_os_errors(f"writing shard {index} in {partial}"):
        shard = _write_shard(partial, index, result.rows, schema)
        entry = {
            "shard": vars(shard),
            "rejected": [[item.id, item.reason, item.detail] for item in result.rejected],
            "totals": dict(result.totals),
        }
        write_json(partial / "progress" / f"{index:05d}.json", entry)
    return entry


def _write_shard(partial: Path, index: int, rows: "Sequence[dict[str, Any]] | pa.Table", schema: str) -> FileEntry:
    name = f"shards/{index:05d}.arrow"
    path = partial / name
    count = write_table(path, rows, schema)
    return FileEntry(path=name, bytes=path.stat().st_size, sha256=sha256_file(path), rows=count)


def _finished(partial: Path, index: int) -> dict[str, Any] | None:
    """The bookkeeping of a shard that is complete and intact, else None (it is then made again)."""
    bookkeeping = partial / "progress" / f"{index:05d}.json"
    if not bookkeeping.is_file():
        return None
    try:
        entry: dict[str, Any] = json.loads(bookkeeping.read_text(encoding="utf-8"))
        shard = FileEntry(**entry["shard"])
    except (ValueError, KeyError, TypeError):  # damaged since: the shard is made again
        return None
    path = partial / shard.path
    if not path.is_file() or path.stat().st_size != shard.bytes or sha256_file(path) != shard.sha256:
        return None
    return entry


def _sum_totals(parts: Iterator[Mapping[str, float]]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            totals[name] = totals.get(name, 0) + value
    return totals


def count_reasons(rejected: Sequence[Rejection]) -> dict[str, int]:
    """Rejections by reason, most frequent first."""
    counts: dict[str, int] = {}
    for item in rejected:
        counts[item.reason] = counts.get(item.reason, 0) + 1
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _artifact_bytes(content: Artifact, partial: Path) -> bytes:
    if isinstance(content, bytes):
        return content
    return content.read_bytes() if isinstance(content, Path) else content(partial)


def _check_rejections(spec: StageSpec, rows: int, rejected: Sequence[Rejection], max_rejected: float) -> None:
    if not rejected:
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in count_reasons(rejected).items())
    first = f"first: {rejected[0].id}: {rejected[0].detail or rejected[0].reason}"
    if rows == 0:
        raise LstError(f"{spec.stage}: every row was rejected ({reasons}; {first}).")
    share = len(rejected) / (rows + len(rejected))
    if share > max_rejected:
        raise LstError(
            f"{spec.stage}: {share:.1%} of the rows were rejected, more than {max_rejected:.1%} ({reasons}; {first}).",
            hint="Mend the data, or allow more with --max-rejected.",
        )


def _write_manifest(
    out: Path,
    partial: Path,
    spec: StageSpec,
    shards: list[FileEntry],
    artifacts: list[str],
    totals: Mapping[str, float],
    rejected: Sequence[Rejection],
    fingerprints: Mapping[str, str],
    location: Mapping[str, str],
) -> None:
    from lst.manifest.tool import tool_version

    if rejected:
        write_table(partial / REJECTED_FILE, [vars(item) for item in rejected], "rejected")
        artifacts = [*artifacts, REJECTED_FILE]
    entries = {}
    for name in artifacts:
        path = partial / name
        entries[name] = FileEntry(path=name, bytes=path.stat().st_size, sha256=sha256_file(path))
    home = Path(os.path.abspath(out))
    inputs = {
        role: InputEntry(path=os.path.relpath(os.path.abspath(source.path), home), id=source.id, schema=source.schema)
        for role, source in spec.inputs.items()
    }
    manifest = Manifest(
        path=out,
        schema=spec.schema,
        id=spec.id,
        stage=spec.stage,
        stage_version=spec.version,
        config=spec.config,
        inputs=inputs,
        fingerprints={**spec.fingerprints, **fingerprints},
        shards=shards,
        artifacts=entries,
        totals=dict(totals),
        rejected=count_reasons(rejected),
        provenance=spec.provenance,
        files=spec.files,
        location=dict(location),
        ancestors=_ancestors(spec),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        tool=tool_version(),
    )
    write_json(partial / MANIFEST_FILE, to_json(manifest))


def _ancestors(spec: StageSpec) -> dict[str, dict[str, Any]]:
    """Every manifest behind this one, by id, so that lineage can be told after the inputs have moved or gone."""
    ancestors: dict[str, dict[str, Any]] = {}
    for source in spec.inputs.values():
        ancestors.update(source.ancestors)
        ancestors[source.id] = {
            "schema": source.schema,
            "stage": source.stage,
            "inputs": {role: entry.id for role, entry in source.inputs.items()},
            "config": source.config,
            "totals": source.totals,
            "provenance": [] if source.inputs else source.provenance,
        }
    return ancestors
