"""Looking at manifests: is it intact (`verify`), where does it come from (`lineage`), what differs (`diff`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lst.errors import LstError
from lst.manifest.files import inside
from lst.manifest.hashing import sha256_file
from lst.manifest.manifest import REJECTED_FILE, Manifest, identity_of, load_manifest


def verify_manifest(directory: Path) -> list[str]:
    """Every problem found: damaged manifest, missing, truncated or changed files, wrong columns. Empty if intact."""
    try:
        manifest = load_manifest(directory)
    except LstError as error:
        return [str(error)]
    problems = []
    for index, entry in enumerate(manifest.shards):
        problem = _check_file(manifest, entry.path, entry.bytes, entry.sha256)
        problems += [problem] if problem else _check_table(manifest, index)
    for entry in manifest.artifacts.values():
        problem = _check_file(manifest, entry.path, entry.bytes, entry.sha256)
        problems += [problem] if problem else []
    return problems


def _check_file(manifest: Manifest, name: str, size: int, sha256: str) -> str:
    try:
        path = inside(manifest.path, name, what=str(manifest.path))
    except LstError as error:
        return str(error)
    if not path.is_file():
        return f"{path} is missing."
    if path.stat().st_size != size:
        return f"{path} has {path.stat().st_size} bytes instead of {size}."
    if sha256_file(path) != sha256:
        return f"{path} does not match its recorded sha256."
    return ""


def _check_table(manifest: Manifest, index: int) -> list[str]:
    from lst.manifest.schemas import arrow_schema
    from lst.manifest.tables import read_table

    table = read_table(manifest, index, verify=False)
    name = manifest.shards[index].path
    problems = []
    if table.num_rows != manifest.shards[index].rows:
        problems.append(f"{name} has {table.num_rows} rows instead of {manifest.shards[index].rows}.")
    expected = arrow_schema(manifest.schema)
    if expected is not None and table.schema.names != expected.names:
        problems.append(f"{name} has columns {table.schema.names}, {manifest.schema} has {expected.names}.")
    return problems


def rejected_rows(manifest: Manifest) -> list[dict[str, str]]:
    """The rows a stage left out: `id`, `reason`, `detail`. Raises LstError if their table is missing or damaged."""
    import pyarrow as pa

    from lst.manifest.tables import check_hash

    if not manifest.rejected:
        return []
    path = manifest.file(REJECTED_FILE)
    check_hash(path, manifest.artifacts[REJECTED_FILE].sha256)
    with pa.memory_map(str(path)) as source:
        rows: list[dict[str, str]] = pa.ipc.open_file(source).read_all().to_pylist()
    return rows


@dataclass(frozen=True)
class LineageNode:
    """A manifest and what it was made from, down to the corpora."""

    role: str
    id: str
    stage: str
    schema: str
    provenance: list[dict[str, str]] = field(default_factory=list)
    inputs: list["LineageNode"] = field(default_factory=list)


def lineage(manifest: Manifest) -> LineageNode:
    """The tree of everything behind `manifest`, from what it records itself: the inputs may have moved or gone."""

    def node(role: str, id: str, entry: Mapping[str, Any]) -> LineageNode:
        inputs = [
            node(name, source, manifest.ancestors[source])
            for name, source in entry["inputs"].items()
            if source in manifest.ancestors
        ]
        return LineageNode(role, id, entry["stage"], entry["schema"], entry["provenance"], inputs)

    root = {
        "stage": manifest.stage,
        "schema": manifest.schema,
        "inputs": {role: entry.id for role, entry in manifest.inputs.items()},
        "provenance": [] if manifest.inputs else manifest.provenance,
    }
    return node("", manifest.id, root)


def differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Leaves where two JSON values differ, as (dotted path, old, new); an absent side is None."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            item
            for key in sorted({*old, *new})
            for item in differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    return [] if old == new else [(path, old, new)]


def diff_manifests(old: Manifest, new: Manifest) -> list[tuple[str, Any, Any]]:
    """What determines two outputs and differs between them, then how their totals differ."""
    return differences(
        {**identity_of(old), "totals": old.totals, "rejected": old.rejected},
        {**identity_of(new), "totals": new.totals, "rejected": new.rejected},
    )
