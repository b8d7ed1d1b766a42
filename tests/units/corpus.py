"""Audio manifests for tests, written directly: no ingestion in between."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from lst.manifest import Manifest, ShardResult, StageSpec, build_shards

PROVENANCE = [{"corpus": "test", "licence": "CC0", "source": "generated"}]


def audio_manifest(
    directory: Path,
    recordings: Sequence[np.ndarray],
    *,
    per_shard: int = 2,
    changes: dict[int, dict[str, Any]] | None = None,
) -> Manifest:
    """`lst.audio/1` over 16 kHz recordings; `changes` overrides columns of single rows."""
    root = directory / "recordings"
    root.mkdir(parents=True)
    rows = []
    for index, samples in enumerate(recordings):
        name = f"r{index}.wav"
        soundfile.write(root / name, samples, 16000, subtype="FLOAT")
        row = {
            "id": f"test/{name}#0",
            "audio_path": name,
            "offset_s": 0.0,
            "duration_s": len(samples) / 16000,
            "sample_rate": 16000,
            "channels": 1,
            "speaker": f"s{index % 2}",
            "text": f"text {index}",
            "language": "en",
            "sha256": hashlib.sha256((root / name).read_bytes()).hexdigest(),
        }
        rows.append({**row, **(changes or {}).get(index, {})})
    shards = [rows[start : start + per_shard] for start in range(0, len(rows), per_shard)]
    digest = hashlib.sha256(repr(rows).encode()).hexdigest()
    spec = StageSpec("lst.audio/1", "ingest", 1, {}, provenance=PROVENANCE, files={"audio": digest})
    return build_shards(directory / "audio", spec, shards, ShardResult, location={"root": str(root)})
