"""A manifest: `manifest.json` beside its Arrow shards, the contract between two stages.

Reading one needs the standard library only. `StageSpec` says what a stage is about to make; its `id` is the hash of
everything that determines the output (schema, stage version, configuration, input ids, asset hashes) and of nothing
else: no path, no date, no number of workers.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from lst.errors import LstError
from lst.manifest.files import inside
from lst.manifest.hashing import sha256_json
from lst.manifest.schemas import VERSIONS, parse_schema

MANIFEST_FILE = "manifest.json"
REJECTED_FILE = "rejected.arrow"

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what is counted) while a stage works."""

Migration = Callable[[dict[str, Any]], dict[str, Any]]

MIGRATIONS: dict[str, Migration] = {}
"""`lst.units/1` -> the function that turns such a manifest's JSON into the next version's. Empty while all are at 1."""


@dataclass(frozen=True)
class FileEntry:
    """A file of a manifest: a shard (with its rows) or an artifact. `path` is relative to the manifest's directory."""

    path: str
    bytes: int
    sha256: str
    rows: int = 0


@dataclass(frozen=True)
class InputEntry:
    """A manifest that went into another: `path` (relative where it can be) to find it, `id` to know it."""

    path: str
    id: str
    schema: str


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` in the directory `path` says."""

    path: Path
    schema: str
    id: str
    stage: str
    stage_version: int
    config: dict[str, Any]
    inputs: dict[str, InputEntry]
    fingerprints: dict[str, str]
    shards: list[FileEntry]
    artifacts: dict[str, FileEntry]
    totals: dict[str, float]
    rejected: dict[str, int]
    provenance: list[dict[str, str]]
    files: dict[str, str]
    location: dict[str, str]
    ancestors: dict[str, dict[str, Any]]
    created: str
    tool: dict[str, str]

    @property
    def rows(self) -> int:
        """Rows in all shards."""
        return sum(shard.rows for shard in self.shards)

    def file(self, name: str) -> Path:
        """Path of the artifact `name`. Raises LstError if there is none, or if it lies outside or is missing."""
        entry = self.artifacts.get(name)
        if entry is None:
            have = ", ".join(sorted(self.artifacts)) or "none"
            raise LstError(f"{self.path} ({self.schema}) has no file {name!r}.", hint=f"It has: {have}.")
        return self._present(entry)

    def shard(self, index: int) -> Path:
        """Path of shard `index`; its size is checked here, its hash by `read_table`."""
        return self._present(self.shards[index])

    def _present(self, entry: FileEntry) -> Path:
        path = inside(self.path, entry.path, what=str(self.path / MANIFEST_FILE))
        size = path.stat().st_size if path.is_file() else None
        if size != entry.bytes:
            state = "is missing" if size is None else f"has {size} bytes instead of {entry.bytes}"
            raise LstError(
                f"{path} {state}.", hint="The manifest is damaged: make it again with the command that made it."
            )
        return path


@dataclass(frozen=True)
class StageSpec:
    """What a stage is about to make. Two specs with the same `id` make the same bytes."""

    schema: str
    stage: str
    version: int
    config: dict[str, Any]
    inputs: dict[str, Manifest] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    provenance: list[dict[str, str]] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, Any]:
        """Everything the id is made of, by name: what `--why` compares."""
        return {
            "schema": self.schema,
            "stage": self.stage,
            "version": self.version,
            "config": self.config,
            "inputs": {role: manifest.id for role, manifest in self.inputs.items()},
            "fingerprints": self.fingerprints,
            "files": self.files,
        }

    @property
    def id(self) -> str:
        """Content id, hex SHA-256."""
        return sha256_json(self.identity)


def merge_provenance(*sources: list[dict[str, str]]) -> list[dict[str, str]]:
    """Union of provenance entries ({corpus, licence, source}), each once, in a fixed order."""
    unique = {tuple(sorted(entry.items())): entry for source in sources for entry in source}
    return [unique[key] for key in sorted(unique)]


def identity_of(manifest: Manifest) -> dict[str, Any]:
    """The same view of a manifest as `StageSpec.identity`, to compare the two."""
    return {
        "schema": manifest.schema,
        "stage": manifest.stage,
        "version": manifest.stage_version,
        "config": manifest.config,
        "inputs": {role: entry.id for role, entry in manifest.inputs.items()},
        "fingerprints": dict(manifest.fingerprints),
        "files": manifest.files,
    }


def to_json(manifest: Manifest) -> dict[str, Any]:
    """The contents of `manifest.json`, with a digest that shows damage."""
    body: dict[str, Any] = {}
    for item in fields(manifest):
        value = getattr(manifest, item.name)
        if item.name == "path":
            continue
        if item.name == "inputs":
            value = {role: vars(entry) for role, entry in value.items()}
        elif item.name == "shards":
            value = [vars(entry) for entry in value]
        elif item.name == "artifacts":
            value = {name: {k: v for k, v in vars(entry).items() if k != "rows"} for name, entry in value.items()}
        body[item.name] = value
    body["digest"] = sha256_json(body)
    return body


def load_manifest(directory: Path | str, schema: str | None = None) -> Manifest:
    """Read `directory/manifest.json`.

    `schema` (`lst.units` or `lst.units/1`) is what the caller needs. Raises LstError if there is no manifest, if it is
    damaged, of another kind, or written by a newer version.
    """
    path = Path(directory)
    if path.name == MANIFEST_FILE:
        path = path.parent
    file = path / MANIFEST_FILE
    if not file.is_file():
        what = "does not exist" if not path.exists() else "holds no manifest.json"
        hint = "Give the --out directory of a finished stage."
        if any(path.parent.glob(f"{path.name}.partial-*")):
            hint = "The stage that makes it did not finish: run the same command again, it continues or says why."
        raise LstError(f"{path} {what}.", hint=hint)
    damaged = "Restore it, or make it again with the command that made it."
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise LstError(f"{file} is damaged: not valid JSON.", hint=damaged) from error
    if not isinstance(body, dict) or not isinstance(body.get("schema"), str):
        raise LstError(f"{file} is damaged or not a manifest of lst: it names no schema.", hint=damaged)
    try:
        name, version = parse_schema(body["schema"])
    except LstError as error:
        raise LstError(f"{file}: {error.message}", hint=error.hint) from error
    if version > VERSIONS[name]:
        by = body.get("tool", {}).get("lst", "a newer version")
        raise LstError(
            f"{file} has schema {body['schema']}, this lst reads {name} up to version {VERSIONS[name]}.",
            hint=f"It was written by lst {by}: use that version or a later one.",
        )
    digest = body.pop("digest", None)
    if digest != sha256_json(body):
        raise LstError(f"{file} is damaged: its contents do not match its digest.", hint=damaged)
    while version < VERSIONS[name]:
        body = MIGRATIONS[f"{name}/{version}"](body)
        version += 1
    if schema is not None and name != parse_schema(schema if "/" in schema else f"{schema}/1")[0]:
        raise LstError(
            f"{path} holds {body['schema']} (made by {body.get('stage')}), but {schema} is needed here.",
            hint="Give the directory of the other stage.",
        )
    return _from_json(path, body)


def _from_json(path: Path, body: Mapping[str, Any]) -> Manifest:
    names = {item.name for item in fields(Manifest)} - {"path"}
    missing = sorted(names - set(body))
    if missing:
        raise LstError(f"{path / MANIFEST_FILE} is damaged: it lacks {', '.join(missing)}.")
    values = {name: body[name] for name in names}
    try:
        values["inputs"] = {role: InputEntry(**entry) for role, entry in body["inputs"].items()}
        values["shards"] = [FileEntry(**entry) for entry in body["shards"]]
        values["artifacts"] = {name: FileEntry(**entry) for name, entry in body["artifacts"].items()}
    except (TypeError, AttributeError) as error:
        raise LstError(f"{path / MANIFEST_FILE} is damaged: {error}.") from error
    return Manifest(path=path, **values)


def open_input(manifest: Manifest, role: str) -> Manifest:
    """The manifest that went into `manifest` as `role`. Raises LstError if it moved or is not the same any more."""
    entry = manifest.inputs.get(role)
    if entry is None:
        raise LstError(f"{manifest.path} ({manifest.schema}) was made without an input {role!r}.")
    found = load_manifest((manifest.path / entry.path).resolve(), entry.schema)
    if found.id != entry.id:
        raise LstError(
            f"{found.path} has changed since {manifest.path} was made ({entry.id[:12]} then, {found.id[:12]} now).",
            hint=f"Make {manifest.path} again.",
        )
    return found
