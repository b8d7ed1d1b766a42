"""Shards: Arrow IPC files that are mapped, not read; each is checked against its hash when first used."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lst.errors import LstError
from lst.manifest.files import fsync_file, written_aside
from lst.manifest.hashing import sha256_file
from lst.manifest.manifest import Manifest
from lst.manifest.schemas import arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa

_verified: set[tuple[str, int, int, str]] = set()


def read_table(
    manifest: Manifest, shard: int, columns: Sequence[str] | None = None, *, verify: bool = True
) -> "pa.Table":
    """Shard `shard` as a memory-mapped Arrow table, restricted to `columns`.

    With `verify`, the file's SHA-256 is compared with the manifest once per process. Raises LstError for a missing,
    truncated or changed shard, or a column it lacks.
    """
    import pyarrow as pa

    path = manifest.shard(shard)
    if verify:
        check_hash(path, manifest.shards[shard].sha256)
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            table = pq.read_table(path, memory_map=True)
        else:
            with pa.memory_map(str(path)) as source:
                table = pa.ipc.open_file(source).read_all()
    except pa.ArrowInvalid as error:
        raise LstError(f"{path} is damaged: not an Arrow file.", hint="Make the manifest again.") from error
    if columns is None:
        return table
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise LstError(f"{path} has no column {', '.join(missing)} (it has {', '.join(table.column_names)}).")
    return table.select(list(columns))


def iter_rows(manifest: Manifest, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """All rows in order, one at a time, as plain Python values; memory stays that of a few hundred rows."""
    for shard in range(len(manifest.shards)):
        for batch in read_table(manifest, shard, columns).to_batches(max_chunksize=256):
            yield from batch.to_pylist()


def check_hash(path: Path, sha256: str) -> None:
    """Compare a file with its recorded hash, once per process and file state. Raises LstError if it differs."""
    state = path.stat()
    key = (str(path), state.st_size, state.st_mtime_ns, sha256)
    if key in _verified:
        return
    if sha256_file(path) != sha256:
        raise LstError(f"{path} does not match its recorded sha256.", hint="It was damaged or edited: make it again.")
    _verified.add(key)


def write_table(path: Path, rows: "Sequence[dict[str, Any]] | pa.Table", schema: str) -> int:
    """Write rows as one Arrow IPC file, whole or not at all; returns their number.

    The columns must be those of `schema` where it fixes any. The same rows give the same bytes.
    """
    import pyarrow as pa

    expected = arrow_schema(schema)
    if isinstance(rows, pa.Table):
        table = rows if expected is None else rows.select(expected.names).cast(expected)
    else:
        table = pa.Table.from_pylist(list(rows), schema=expected)
    with written_aside(path) as temporary:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks())
        fsync_file(temporary)
    return int(table.num_rows)
