"""Unit manifests for tests, with and without recordings behind them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lst.manifest import Manifest, ShardResult, StageSpec, build_shards, iter_rows, sha256_json
from lst.vocoder.base import Vocoder
from lst.vocoder.pitch import estimate_pitch
from tests.units.corpus import audio_manifest
from tests.vocoder.toys import TOKENIZER

PROVENANCE = [{"corpus": "test", "licence": "CC0", "source": "generated"}]


def units_manifest(
    out: Path,
    utterances: dict[str, Sequence[int]],
    *,
    tokenizer: str = TOKENIZER,
    audio: Manifest | None = None,
    per_shard: int = 2,
) -> Manifest:
    """`lst.units/1` of the given units by row id."""
    rows = [
        {"id": row_id, "duration_s": len(units) / 25, "units": list(units), "speaker": "s", "text": ""}
        for row_id, units in utterances.items()
    ]
    tasks = [rows[start : start + per_shard] for start in range(0, len(rows), per_shard)]
    spec = StageSpec(
        "lst.units/1",
        "tokenize-audio",
        1,
        {},
        inputs={"audio": audio} if audio else {},
        fingerprints={"tokenizer": tokenizer},
        provenance=PROVENANCE,
        files={"units": sha256_json(rows)},
    )
    return build_shards(out, spec, tasks, ShardResult)


def tone_of(unit: int) -> tuple[float, float]:
    """F0 and brightness of a unit's sound: four pitches, three timbres."""
    return 120.0 + 30 * (unit % 4), 0.2 + 0.3 * (unit // 4)


def sing(units: Sequence[int]) -> np.ndarray:
    """A recording in which every unit has its own sound: (640 * T,)."""
    f0 = np.repeat([tone_of(unit)[0] for unit in units], 640)
    bright = np.repeat([tone_of(unit)[1] for unit in units], 640)
    phase = np.cumsum(f0) / 16000
    harmonics = sum(np.cos(2 * np.pi * k * phase) * bright**k for k in range(1, 12))
    noise = np.random.default_rng(len(units)).standard_normal(len(phase))
    return (0.1 * harmonics + 0.001 * noise).astype(np.float32)


def sung_corpus(directory: Path, count: int = 24, length: int = 40) -> tuple[Manifest, Manifest]:
    """Units and their audio: `count` utterances of `length` units, each unit held for 4 frames. (units, audio)."""
    random = np.random.default_rng(0)
    utterances: list[list[int]] = [np.repeat(random.integers(0, 12, length // 4), 4).tolist() for _ in range(count)]
    audio = audio_manifest(directory, [sing(units) for units in utterances], per_shard=8)
    ids: list[Any] = [row["id"] for row in iter_rows(audio)]
    units = units_manifest(directory / "units", dict(zip(ids, utterances, strict=True)), audio=audio, per_shard=8)
    return units, audio


def assert_in_tune(vocoder: Vocoder) -> None:
    """Units of a fitted vocoder, in a sequence never heard, have the pitch they were sung with, to a semitone."""
    for unit in (1, 6, 11):
        samples = vocoder.synthesize(np.repeat([0, 5, unit, 9, 3], 4))
        pitch = estimate_pitch(samples, 160)[34:46]
        assert abs(12 * np.log2(np.median(pitch) / tone_of(unit)[0])) < 1
