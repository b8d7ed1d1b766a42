"""The stage `vocode`: units -> sound files. `lst.units/1` (or `lst.aligned/1`, `lst.pairs/1`) -> `lst.waves/1`.

One 16-bit WAV per row below `waves/`, named by `wav_name`, and a table of id, path, duration. A killed run keeps the
files that are complete.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lst.config import StageConfig
from lst.constants import SAMPLE_RATE
from lst.errors import LstError
from lst.manifest import (
    DirectoryResult,
    Manifest,
    Progress,
    Rejection,
    StageSpec,
    build_directory,
    load_manifest,
    read_table,
    sha256_json,
)
from lst.vocoder.files import UnitList, wav_name, write_wav_pieces
from lst.vocoder.loading import choose_vocoder, load_vocoder, manifest_in, vocoder_fingerprint, vocoder_name

if TYPE_CHECKING:
    from lst.vocoder.base import Float, Vocoder

SCHEMA = "lst.waves/1"
VERSION = 1
WAVES = "waves"
BLOCK = 250
"""Units turned into sound at a time."""
SOURCES = ("lst.units/1", "lst.aligned/1", "lst.pairs/1")


class VocodeConfig(StageConfig):
    """What turns units into sound."""

    vocoder: str | None = Field(None, description="name or directory of a vocoder; null: the one made for these units")
    speaker: str = Field("", description="speaker, by name or number, of a vocoder that has several")
    style: str = Field("", description="style, by name or number, of a vocoder that has several")
    deduplicated: bool = Field(False, description="the units have no repeats: let the vocoder predict durations")


@dataclass(frozen=True)
class ShardVocoder:
    """Makes the sound files of one shard. Loads its vocoder once per process."""

    units: Path
    vocoder: str
    fingerprint: str
    tokenizer: str
    speaker: str
    style: str
    deduplicated: bool
    directory: Path

    def __call__(self, shard: int) -> tuple[list[dict[str, Any]], list[Rejection]]:
        """Rows of shard `shard`, in order; those that cannot be spoken are rejected with a reason."""
        table = read_table(load_manifest(self.units), shard, ["id", "units"])
        return self.speak(row for batch in table.to_batches(max_chunksize=256) for row in batch.to_pylist())

    def speak(self, rows: Iterable[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[Rejection]]:
        """Sound files of rows of {id, units}."""
        vocoder = _load(self.vocoder, self.fingerprint, self.tokenizer, self.units, self.speaker, self.style)
        made: list[dict[str, Any]] = []
        rejected: list[Rejection] = []
        for row in rows:
            name = f"{WAVES}/{wav_name(row['id'])}"
            path = self.directory / name
            if not path.is_file():  # else made before an interruption: files appear whole or not at all
                problem = _problem(row["units"], vocoder.num_units)
                if problem:
                    rejected.append(Rejection(row["id"], *problem))
                    continue
                write_wav_pieces(path, self._pieces(vocoder, row["units"]), vocoder.sample_rate)
            made.append({"id": row["id"], "path": name, "duration_s": _seconds(path)})
        return made, rejected

    def _pieces(self, vocoder: "Vocoder", units: list[int]) -> "Iterator[Float]":
        if not self.deduplicated:
            # Piece by piece: an hour of units takes no more memory than a minute of them.
            yield from vocoder.stream(units, BLOCK)
            return
        from lst.vocoder.hifigan_files import HifiGanVocoder

        if not isinstance(vocoder, HifiGanVocoder):
            raise LstError(
                f"The vocoder {vocoder.name} predicts no durations.", hint="Leave out --deduplicated (deduplicated)."
            )
        yield vocoder.synthesize_deduplicated(units)


def vocode_spec(units: Manifest, config: VocodeConfig) -> StageSpec:
    """What `vocode` would make. The vocoder counts by its fingerprint, not by where it lies."""
    if units.schema not in SOURCES:
        raise LstError(
            f"{units.path} holds {units.schema}, but units are needed here.",
            hint=f"Give the directory of a stage that made {', '.join(SOURCES[:-1])} or {SOURCES[-1]}.",
        )
    tokenizer = units.fingerprints.get("tokenizer", "")
    vocoder = choose_vocoder(config.vocoder, tokenizer, str(units.path), told_by=units)
    return StageSpec(
        schema=SCHEMA,
        stage="vocode",
        version=VERSION,
        config={**config.as_json(), "vocoder": vocoder_name(vocoder)},
        inputs={"units": units},
        fingerprints={**units.fingerprints, "vocoder": vocoder_fingerprint(vocoder)},
        provenance=units.provenance,
    )


def vocode(
    units: Manifest,
    out: Path,
    config: VocodeConfig,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    force: bool = False,
    max_rejected: float = 1.0,
) -> Manifest:
    """Make a sound file of every row of `units`.

    Raises LstError if the vocoder was made for other units, or if more than the share `max_rejected` of the rows, or
    all of them, are rejected.
    """
    spec = vocode_spec(units, config)
    tokenizer = units.fingerprints.get("tokenizer", "")
    vocoder = choose_vocoder(config.vocoder, tokenizer, str(units.path), told_by=units)

    def make(directory: Path) -> DirectoryResult:
        worker = _worker(spec, vocoder, tokenizer, config, directory, units=units.path)
        made: list[dict[str, Any]] = []
        rejected: list[Rejection] = []
        for done, (rows, wrong) in enumerate(_in_order(worker, len(units.shards), workers)):
            made += rows
            rejected += wrong
            if progress is not None:
                progress(done + 1, len(units.shards), "shards")
        return _result(made, rejected, max_rejected)

    return build_directory(out, spec, make, force=force)


def vocode_list(units: UnitList, out: Path, config: VocodeConfig, *, force: bool = False) -> Manifest:
    """The same for the units of one file (`read_units_file`). Raises as `vocode`, and UsageError without a vocoder."""
    tokenizer = _fingerprint(units.tokenizer)
    vocoder = choose_vocoder(config.vocoder, tokenizer, units.id)
    fingerprints = {"vocoder": vocoder_fingerprint(vocoder)} | ({"tokenizer": tokenizer} if tokenizer else {})
    spec = StageSpec(
        schema=SCHEMA,
        stage="vocode",
        version=VERSION,
        config={**config.as_json(), "vocoder": vocoder_name(vocoder), "id": units.id},
        fingerprints=fingerprints,
        files={"units": sha256_json(units.units)},
    )

    def make(directory: Path) -> DirectoryResult:
        worker = _worker(spec, vocoder, tokenizer, config, directory, units=directory)
        made, rejected = worker.speak([{"id": units.id, "units": units.units}])
        return _result(made, rejected, 0.0)

    return build_directory(out, spec, make, force=force)


def _worker(
    spec: StageSpec, vocoder: str, tokenizer: str, config: VocodeConfig, directory: Path, *, units: Path
) -> ShardVocoder:
    worker = ShardVocoder(
        units=Path(os.path.abspath(units)),
        vocoder=os.path.abspath(vocoder) if Path(vocoder).is_dir() else vocoder,
        fingerprint=spec.fingerprints["vocoder"],
        tokenizer=tokenizer,
        speaker=config.speaker,
        style=config.style,
        deduplicated=config.deduplicated,
        directory=directory,
    )
    (directory / WAVES).mkdir(exist_ok=True)
    # A vocoder that cannot be used is one error, not one per worker.
    _load(worker.vocoder, worker.fingerprint, tokenizer, worker.units, config.speaker, config.style)
    return worker


def _in_order(
    worker: ShardVocoder, shards: int, workers: int
) -> Iterator[tuple[list[dict[str, Any]], list[Rejection]]]:
    """Results of all shards in order, made in `workers` processes."""
    if workers <= 1 or shards <= 1:
        yield from map(worker, range(shards))
        return
    from lst.manifest.workers import in_processes

    waiting: dict[int, tuple[list[dict[str, Any]], list[Rejection]]] = {}
    following = 0
    for shard, result in in_processes(worker, {shard: shard for shard in range(shards)}, workers):
        waiting[shard] = result
        while following in waiting:
            yield waiting.pop(following)
            following += 1


def _result(made: list[dict[str, Any]], rejected: list[Rejection], max_rejected: float) -> DirectoryResult:
    if (rejected and len(rejected) > max_rejected * (len(made) + len(rejected))) or not made:
        first = f"{rejected[0].id}: {rejected[0].detail}" if rejected else "there are no rows"
        raise LstError(
            f"vocode: {len(rejected)} of {len(made) + len(rejected)} rows could not be spoken ({first})",
            hint="Check that the units belong to the vocoder's tokenizer.",
        )
    hours = sum(row["duration_s"] for row in made) / 3600
    return DirectoryResult([row["path"] for row in made], {"hours": hours}, rows=made, rejected=rejected)


def _problem(units: list[int], num_units: int) -> tuple[str, str] | None:
    """Reason and detail if these units cannot be spoken."""
    if not units:
        return "no-units", "there are no units to make sound of."
    wrong = next((unit for unit in units if not 0 <= unit < num_units), None)
    if wrong is not None:
        return "unit-out-of-range", f"unit {wrong} is outside 0 to {num_units - 1}, the units of the vocoder."
    return None


def _fingerprint(tokenizer: str) -> str:
    """A tokenizer's fingerprint from what a file calls it: a fingerprint already, or a name."""
    if not tokenizer or (len(tokenizer) == 64 and set(tokenizer) <= set("0123456789abcdef")):
        return tokenizer
    from lst.units.loading import tokenizer_fingerprint

    return tokenizer_fingerprint(tokenizer)


def _seconds(path: Path) -> float:
    import soundfile

    return float(soundfile.info(path).frames) / SAMPLE_RATE


@lru_cache(maxsize=1)
def _load(name: str, fingerprint: str, tokenizer: str, units: Path, speaker: str, style: str) -> "Vocoder":
    vocoder = load_vocoder(name, tokenizer=tokenizer or None, told_by=manifest_in(units), speaker=speaker, style=style)
    if vocoder.fingerprint != fingerprint:
        raise LstError(f"The vocoder {name} was changed while it was in use.", hint="Run the command again.")
    return vocoder
