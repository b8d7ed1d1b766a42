"""Versioned manifests: the contract between stages."""

from lst.manifest.build import (
    DirectoryResult,
    Rejection,
    ShardResult,
    build_directory,
    build_shards,
    count_reasons,
)
from lst.manifest.files import explain_os_errors, inside, write_atomic, write_json
from lst.manifest.hashing import canonical_json, is_held_out, sha256_bytes, sha256_file, sha256_json
from lst.manifest.manifest import (
    FileEntry,
    InputEntry,
    Manifest,
    Progress,
    StageSpec,
    identity_of,
    load_manifest,
    merge_provenance,
    open_input,
)
from lst.manifest.place import existing_output, partial_path
from lst.manifest.schemas import arrow_schema, parse_schema
from lst.manifest.tables import check_hash, iter_rows, read_table, write_table

__all__ = [
    "DirectoryResult",
    "FileEntry",
    "InputEntry",
    "Manifest",
    "Progress",
    "Rejection",
    "ShardResult",
    "StageSpec",
    "arrow_schema",
    "build_directory",
    "build_shards",
    "canonical_json",
    "check_hash",
    "count_reasons",
    "existing_output",
    "explain_os_errors",
    "identity_of",
    "inside",
    "is_held_out",
    "iter_rows",
    "load_manifest",
    "merge_provenance",
    "open_input",
    "parse_schema",
    "partial_path",
    "read_table",
    "sha256_bytes",
    "sha256_file",
    "sha256_json",
    "write_atomic",
    "write_json",
    "write_table",
]
