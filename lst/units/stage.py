"""The stage `tokenize-audio`: `lst.audio/1` -> `lst.units/1`, shard by shard, each utterance on its own."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from lst.audio import AudioError, stream_audio
from lst.audio.rows import open_row_audio, row_audio_path
from lst.config import StageConfig
from lst.constants import DEFAULT_TOKENIZER, SAMPLE_RATE
from lst.errors import LstError
from lst.manifest import Manifest, Progress, Rejection, ShardResult, StageSpec, build_shards, load_manifest, read_table
from lst.units.loading import identify_tokenizer, load_tokenizer
from lst.units.tokenizer import UnitTokenizer

if TYPE_CHECKING:
    import numpy as np

SCHEMA = "lst.units/1"
VERSION = 1

LONG_S = 300.0
"""Utterances longer than this are decoded and encoded in pieces, in bounded memory."""

TOLERANCE_S = 0.04
"""A recording may differ by so much (one unit) from the duration that the audio manifest gives."""


class TokenizeAudioConfig(StageConfig):
    """What turns audio into units."""

    tokenizer: str = Field(default=DEFAULT_TOKENIZER, description="Name of a unit tokenizer, or the directory of one.")
    device: Literal["cpu", "cuda"] = Field(
        default="cpu", description="Where a HuBERT runs; a GPU rounds otherwise than a CPU, so single units may differ."
    )


@dataclass(frozen=True)
class ShardTokenizer:
    """Turns one shard of an audio manifest into rows of units. Loads its tokenizer once per process."""

    audio: Path
    tokenizer: str
    fingerprint: str
    device: str

    def __call__(self, shard: int) -> ShardResult:
        """Rows of shard `shard`, in order; those that cannot be encoded are rejected with a reason."""
        audio = load_manifest(self.audio, "lst.audio")
        tokenizer = _load(self.tokenizer, self.fingerprint, self.device)
        rows: list[dict[str, Any]] = []
        rejected: list[Rejection] = []
        for row in read_table(audio, shard).to_pylist():
            try:
                units = encode_row(tokenizer, audio, row)
            except AudioError as error:
                rejected.append(Rejection(row["id"], error.reason, str(error)))
                continue
            rows.append(
                {
                    "id": row["id"],
                    "duration_s": row["duration_s"],
                    "units": units,
                    "speaker": row["speaker"],
                    "text": row["text"],
                }
            )
        totals = {
            "hours": sum(row["duration_s"] for row in rows) / 3600,
            "units": sum(len(row["units"]) for row in rows),
        }
        return ShardResult(rows, rejected, totals)


def encode_row(tokenizer: UnitTokenizer, audio: Manifest, row: Mapping[str, Any]) -> "np.ndarray":
    """(T,) uint16 units of one utterance.

    Raises AudioError: as `lst.audio.rows.open_row_audio`, or `duration-mismatch`, or `audio-too-short` for no unit.
    """
    import numpy as np

    samples = 0

    def counted() -> Iterator["np.ndarray"]:
        nonlocal samples
        for chunk in row_chunks(audio, row):
            samples += len(chunk)
            yield chunk

    units = np.concatenate(list(tokenizer.encode_stream(counted())))
    seconds = samples / SAMPLE_RATE
    if abs(seconds - row["duration_s"]) > TOLERANCE_S:
        raise AudioError(
            f"{row['id']} has {seconds:.3f} s of audio, but its manifest says {row['duration_s']:.3f} s.",
            reason="duration-mismatch",
            hint="Ingest the corpus again.",
        )
    if len(units) == 0:
        raise AudioError(f"{row['id']} is too short for a unit ({samples} samples).", reason="audio-too-short")
    return units


def tokenize_audio_spec(audio: Manifest, config: TokenizeAudioConfig) -> StageSpec:
    """What `tokenize_audio` would make. The tokenizer counts by its fingerprint, not by where it lies."""
    tokenizer = identify_tokenizer(config.tokenizer)
    return StageSpec(
        schema=SCHEMA,
        stage="tokenize-audio",
        version=VERSION,
        config={**config.as_json(), "tokenizer": tokenizer.spec.name},
        inputs={"audio": audio},
        fingerprints={**audio.fingerprints, "tokenizer": tokenizer.fingerprint},
        provenance=audio.provenance,
    )


def tokenize_audio(
    audio: Manifest,
    out: Path,
    config: TokenizeAudioConfig,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    force: bool = False,
    max_rejected: float = 1.0,
) -> Manifest:
    """Encode every utterance of `audio` into units, one output shard per input shard.

    Raises LstError if the tokenizer cannot be used, or if more than the share `max_rejected` of the rows is rejected.
    """
    spec = tokenize_audio_spec(audio, config)
    is_directory = Path(config.tokenizer).is_dir()
    worker = ShardTokenizer(
        audio=Path(os.path.abspath(audio.path)),
        tokenizer=os.path.abspath(config.tokenizer) if is_directory else config.tokenizer,
        fingerprint=spec.fingerprints["tokenizer"],
        device=config.device,
    )
    return build_shards(
        out,
        spec,
        range(len(audio.shards)),
        worker,
        workers=workers,
        progress=progress,
        force=force,
        max_rejected=max_rejected,
    )


def row_chunks(audio: Manifest, row: Mapping[str, Any]) -> Iterator["np.ndarray"]:
    """The samples of a row, in one piece or, if it is long, in several. Raises AudioError as `open_row_audio`."""
    if row["duration_s"] <= LONG_S:
        yield open_row_audio(audio, row)
        return
    # Opening the first second is enough to compare the file with its hash.
    open_row_audio(audio, {**row, "duration_s": 1.0})
    yield from stream_audio(row_audio_path(audio, row), offset_s=row["offset_s"], duration_s=row["duration_s"])


@lru_cache(maxsize=1)
def _load(name: str, fingerprint: str, device: str) -> UnitTokenizer:
    tokenizer = load_tokenizer(name, device=device)
    if tokenizer.fingerprint != fingerprint:
        raise LstError(f"The tokenizer {name} was changed while it was in use.", hint="Run the command again.")
    return tokenizer
