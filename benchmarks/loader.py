"""Reading training data: rows of 10 s utterances, packed rows; memory over 10^6 rows (100,000 of them, ten epochs).

    python -m benchmarks.loader            # 10^6 rows
    python -m benchmarks.loader 100000     # fewer

Every figure is of one process and one thread, from a warm page cache. `cpu` figures count the process's CPU time, which
other processes on the machine do not disturb.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lst.data.loader import Loader, open_stream
from lst.data.mixture import MixtureConfig
from lst.data.patching import PatchingConfig
from lst.data.rows import EpochOrder, pair_rows
from lst.data.stream import DataConfig, Horizon
from lst.manifest import Manifest, ShardResult, StageSpec, build_shards, iter_rows, read_table
from lst.text.train import train_tokenizer

ROWS_PER_SHARD = 2_000
SHARDS = 50
WORDS = 26
UNITS = 250
VOCABULARY = 380


def main() -> None:
    """Print one line per figure."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as scratch:
        pairs, text = synthesize(Path(scratch))
        for manifest in (pairs, text):  # hash each shard once, and warm the page cache
            for shard in range(len(manifest.shards)):
                read_table(manifest, shard)
        read_rows(pairs, rows)
        for mode in ("none", "static", "aligned", "curriculum"):
            pack(pairs, text, mode, 400)


def read_rows(pairs: Manifest, count: int) -> None:
    """Rows in shuffled order, their units and tokens copied out; memory at a tenth of the way and at the end."""
    rows = pair_rows(pairs, text_size=VOCABULARY, split="train", open_shards=16)
    done = used = epoch = 0
    early = 0
    with timed() as time_taken:
        while done < count:
            order = EpochOrder(rows.sizes, group=16, seed=0, epoch=epoch, name="speech")
            for start in range(0, min(order.total, count - done), 1024):
                for shard, index in zip(*(part.tolist() for part in order(start, start + 1024)), strict=True):
                    row = rows.shard(shard).row(index)
                    used += len(row.units.copy()) + len(row.tokens.copy())
                    done += 1
                if early == 0 and done >= count // 10:
                    early = anonymous_memory()
            epoch += 1
    late = anonymous_memory()
    with timed() as slow:
        plain = sum(1 for _, _ in zip(range(4_000), iter_rows(pairs), strict=False))
    emit(
        "loader.read_rows",
        rows_per_s=done / time_taken["wall"],
        rows_per_cpu_s=done / time_taken["cpu"],
        to_pylist_rows_per_cpu_s=plain / slow["cpu"],
        rows=done,
        tokens=used,
        anonymous_mb_at_a_tenth=early / 2**20,
        anonymous_mb_at_the_end=late / 2**20,
        growth_mb=(late - early) / 2**20,
    )


def pack(pairs: Manifest, text: Manifest, mode: str, count: int) -> None:
    """Packed rows of the paper's mixture and budget, built; then what every other process of a large run does."""
    patching = PatchingConfig(mode=mode)  # type: ignore[arg-type]
    for what, world in (("one process", 1), ("one of 8 processes", 8)):
        stream = open_stream(pairs, text, DataConfig(mixture=MixtureConfig()), patching, horizon=Horizon(count))
        loader = Loader(stream, rows=1, world=world)
        next(loader)
        before = stream.report()
        with timed() as taken:
            for _ in range(max(1, count // world)):
                next(loader)
        report = stream.report()
        tokens = report["original_tokens"] - before["original_tokens"]
        emit(
            f"loader.packed.{mode}",
            what=what,
            tokens_per_cpu_s=tokens / taken["cpu"],
            global_units_per_cpu_s=(report["global_units"] - before["global_units"]) / taken["cpu"],
            packing_efficiency=report["packing_efficiency"],
            sequence_ratio=report["sequence_ratio"],
            units_per_patch=report["units_per_patch"],
            speech_share_of_mixture=report["sources"]["speech"]["share"],
            unit_share_of_speech=report["sources"]["speech"]["speech_share"],
        )


def synthesize(root: Path) -> tuple[Manifest, Manifest]:
    """Pairs of 10 s utterances with 26 words and about 34 tokens, and text documents of about 220 tokens."""
    model = train_tokenizer(["the cat sat on the mat and the dog ran " * 20], VOCABULARY)
    common = {"fingerprints": {"text_tokenizer": "synthetic"}}
    pairs = build_shards(
        root / "pairs",
        StageSpec("lst.pairs/1", "interleave", 1, {}, **common),  # type: ignore[arg-type]
        range(SHARDS),
        pair_shard,
        artifacts={"tokenizer.model": model},
    )
    text = build_shards(
        root / "text",
        StageSpec("lst.text/1", "tokenize-text", 1, {}, **common),  # type: ignore[arg-type]
        range(10),
        text_shard,
        artifacts={"tokenizer.model": model},
    )
    return pairs, text


def pair_shard(shard: int) -> ShardResult:
    """One shard, as arrays: no Python object per row."""
    rng = np.random.default_rng(shard)
    n = ROWS_PER_SHARD
    edges = np.sort(np.argsort(rng.random((n, UNITS)), axis=1)[:, : 2 * WORDS], axis=1).astype(np.int32)
    pieces = rng.choice([1, 1, 1, 2], size=(n, WORDS))
    token_ends = np.cumsum(pieces, axis=1).astype(np.int32)
    token_counts = token_ends[:, -1]
    word = pa.StructArray.from_arrays(
        [
            pa.array(np.full(n * WORDS, "word")),
            pa.array(edges[:, 0::2].ravel()),
            pa.array(edges[:, 1::2].ravel()),
            pa.array(np.ones(n * WORDS, dtype=np.float32)),
        ],
        ["text", "start", "end", "score"],
    )
    span = pa.StructArray.from_arrays(
        [pa.array((token_ends - pieces).ravel().astype(np.int32)), pa.array(token_ends.ravel())], ["start", "end"]
    )
    tokens = rng.integers(0, VOCABULARY, int(token_counts.sum())).astype(np.int32)
    per_word = np.arange(n + 1, dtype=np.int32) * WORDS
    table = {
        "id": pa.array([f"corpus/{shard:03d}/{i:05d}.flac#0" for i in range(n)]),
        "duration_s": pa.array(np.full(n, UNITS / 25)),
        "units": pa.ListArray.from_arrays(
            np.arange(n + 1, dtype=np.int32) * UNITS, rng.integers(0, 501, n * UNITS).astype(np.uint16)
        ),
        "speaker": pa.array(["s"] * n),
        "text": pa.array(["word " * WORDS] * n),
        "words": pa.ListArray.from_arrays(per_word, word),
        "tokens": pa.ListArray.from_arrays(np.concatenate(([0], np.cumsum(token_counts))).astype(np.int32), tokens),
        "token_spans": pa.ListArray.from_arrays(per_word, span),
        "split": pa.array(["train"] * n),
    }
    return ShardResult(pa.table(table))


def text_shard(shard: int) -> ShardResult:
    """One shard of text documents with the spread of lengths of short stories."""
    rng = np.random.default_rng(1000 + shard)
    counts = rng.gamma(4, 55, ROWS_PER_SHARD).astype(np.int32) + 10
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
    n = len(counts)
    table = {
        "id": pa.array([f"stories/{shard:03d}/{i:05d}" for i in range(n)]),
        "text": pa.array([""] * n),
        "tokens": pa.ListArray.from_arrays(offsets, rng.integers(0, VOCABULARY, int(offsets[-1])).astype(np.int32)),
        "split": pa.array(["train"] * n),
        "licence": pa.array([""] * n),
        "source": pa.array([""] * n),
    }
    return ShardResult(pa.table(table))


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Wall and CPU seconds of the block."""
    taken: dict[str, float] = {}
    wall, cpu = time.perf_counter(), time.process_time()
    yield taken
    taken.update(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)


def anonymous_memory() -> int:
    """Bytes of the process's own memory; mapped files, which the kernel can drop at any time, do not count."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def emit(name: str, **values: Any) -> None:
    """One JSON line."""
    rounded = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in values.items()}
    print(json.dumps({"bench": name, **rounded, "load_1min": round(os.getloadavg()[0], 1)}), flush=True)


if __name__ == "__main__":
    main()
