"""The stage `align`: `lst.units/1` -> `lst.aligned/1`, shard by shard, with a quality gate and a report.

Rows whose transcript does not fit the speech (score below `min_score`), or that cannot be aligned, are rejected with a
reason. `report.json` says how much of the text was aligned, how well, and what was rejected.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lst.align.loading import (
    aligner_fingerprint,
    aligner_name,
    check_language,
    default_min_score,
    load_aligner,
    primary_language,
)
from lst.align.report import REPORT_FILE, ShardReport, merge_reports, shard_report_path
from lst.config import StageConfig
from lst.errors import LstError
from lst.manifest import (
    Manifest,
    Progress,
    Rejection,
    ShardResult,
    StageSpec,
    build_shards,
    existing_output,
    load_manifest,
    merge_provenance,
    partial_path,
    read_table,
)

if TYPE_CHECKING:
    from lst.align.base import Aligner

SCHEMA = "lst.aligned/1"
VERSION = 1


class AlignConfig(StageConfig):
    """How words are found, and which rows are good enough."""

    aligner: str = Field(
        default="pocketsphinx", description="pocketsphinx, the name of a CTC aligner, or the path of a checkpoint."
    )
    min_score: float | None = Field(
        default=None, ge=0, le=1, description="Reject rows that score lower; empty: what suits the aligner."
    )
    language: str | None = Field(
        default=None, description="Of the transcripts, such as en; empty: the aligner's own. Other rows are rejected."
    )
    max_s: float = Field(
        default=3600.0, gt=0, description="Longest row to align, in seconds: its samples are held in memory."
    )


@dataclass(frozen=True)
class ShardAligner:
    """Aligns one shard of units with its recordings. Loads its aligner once per process."""

    units: Path
    audio: Path
    aligner: str
    language: str | None
    fingerprint: str
    min_score: float
    max_s: float
    reports: Path

    def __call__(self, shard: int) -> ShardResult:
        """Rows of shard `shard` that could be aligned, in order."""
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        from lst.audio import AudioError

        units = load_manifest(self.units, "lst.units")
        audio = load_manifest(self.audio, "lst.audio")
        aligner = _load(self.aligner, self.language, self.fingerprint)
        recordings = _recordings(audio, units, shard)
        rows: list[dict[str, Any]] = []
        rejected: list[Rejection] = []
        report = ShardReport()
        # More threads add up matrix products in another order: scores would depend on how many there are.
        with threadpool_limits(1):
            for row in read_table(units, shard).to_pylist():
                try:
                    reason, detail = self._align(aligner, audio, recordings.get(row["id"]), row, report)
                except AudioError as error:
                    reason, detail = error.reason, str(error)
                if reason:
                    report.reject(row, reason, detail)
                    rejected.append(Rejection(row["id"], reason, detail))
                else:
                    rows.append(row)
        # Beside the shard, and before it: a shard that is complete has its report.
        report.save(shard_report_path(self.reports, shard))
        hours = sum(row["duration_s"] for row in rows) / 3600
        return ShardResult(rows, rejected, {"hours": hours, **report.totals()})

    def _align(
        self,
        aligner: "Aligner",
        audio: Manifest,
        recording: Mapping[str, Any] | None,
        row: dict[str, Any],
        report: ShardReport,
    ) -> tuple[str, str]:
        """Put `words` into the row, or say why not: (reason, detail)."""
        from lst.audio import open_row_audio

        if recording is None:
            return "audio-missing", f"{audio.path} has no row {row['id']}"
        if not (row["text"] or "").strip():
            return "no-text", "the row has no transcript"
        language = primary_language(recording["language"] or aligner.language)
        if language != aligner.language:
            return (
                "other-language",
                f"the row is in {language!r}, {aligner.name} aligns {aligner.language!r} (language)",
            )
        if recording["duration_s"] > self.max_s:
            return "too-long-to-align", f"{recording['duration_s']:.0f} s, above {self.max_s:.0f} s (max_s)"
        alignment = aligner.align(open_row_audio(audio, recording), row["text"], len(row["units"]))
        if alignment.rejected:
            return alignment.rejected, alignment.detail
        report.seen(alignment.score)
        if alignment.score < self.min_score:
            return "low-score", f"score {alignment.score:.3f}, below {self.min_score:g}: {row['text'][:80]!r}"
        row["words"] = [vars(word) for word in alignment.words]
        report.accept(row, alignment.score, alignment.unknown)
        return "", ""


def align_spec(units: Manifest, audio: Manifest, config: AlignConfig) -> StageSpec:
    """What `align` would make. The aligner counts by its fingerprint, not by where it lies."""
    if units.inputs.get("audio") is not None and units.inputs["audio"].id != audio.id:
        raise LstError(
            f"{units.path} was not made from {audio.path}, but from {units.inputs['audio'].path}.",
            hint="Give the audio manifest that the units were made from.",
        )
    check_language(config.aligner, config.language)
    settings = config.as_json()
    settings["aligner"] = aligner_name(config.aligner)
    settings["min_score"] = default_min_score(config.aligner) if config.min_score is None else config.min_score
    return StageSpec(
        schema=SCHEMA,
        stage="align",
        version=VERSION,
        config=settings,
        inputs={"units": units, "audio": audio},
        fingerprints={**units.fingerprints, "aligner": aligner_fingerprint(config.aligner)},
        provenance=merge_provenance(units.provenance, audio.provenance),
    )


def align(
    units: Manifest,
    audio: Manifest,
    out: Path,
    config: AlignConfig,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    force: bool = False,
    max_rejected: float = 1.0,
) -> Manifest:
    """Find the words of every transcript in its recording; one output shard per shard of units.

    Rejects rows by reason: no-text, other-language, text-other-script, text-too-long, alignment-failed, low-score,
    too-long-to-align, and those of `lst.audio.open_row_audio` (audio-changed, audio-missing, ...). Raises LstError if
    the aligner cannot be used, or if more than the share `max_rejected` of the rows is rejected.
    """
    out = Path(out)
    spec = align_spec(units, audio, config)
    made = existing_output(out, spec, force=force)
    if made is not None:
        return made
    is_path = Path(config.aligner).exists()
    partial = partial_path(Path(os.path.abspath(out)), spec.id)
    worker = ShardAligner(
        units=Path(os.path.abspath(units.path)),
        audio=Path(os.path.abspath(audio.path)),
        aligner=os.path.abspath(config.aligner) if is_path else config.aligner,
        language=config.language,
        fingerprint=spec.fingerprints["aligner"],
        min_score=spec.config["min_score"],
        max_s=config.max_s,
        reports=partial,
    )
    return build_shards(
        out,
        spec,
        range(len(units.shards)),
        worker,
        workers=workers,
        progress=progress,
        force=force,
        max_rejected=max_rejected,
        artifacts={
            REPORT_FILE: lambda directory: merge_reports(directory, len(units.shards), spec.config["min_score"])
        },
    )


def find_audio(units: Manifest) -> Manifest:
    """The audio manifest that `units` was made from. Raises LstError if it moved or changed."""
    from lst.manifest import open_input

    return open_input(units, "audio")


def _recordings(audio: Manifest, units: Manifest, shard: int) -> dict[str, dict[str, Any]]:
    """Rows of the audio manifest by id, for the units of one shard: the shard of the same number if it has them."""
    wanted = set(read_table(units, shard, ["id"]).column("id").to_pylist())
    found: dict[str, dict[str, Any]] = {}
    order = sorted(range(len(audio.shards)), key=lambda index: index != shard)
    for index in order:
        if wanted <= found.keys():
            break
        found.update({row["id"]: row for row in read_table(audio, index).to_pylist() if row["id"] in wanted})
    return found


@lru_cache(maxsize=1)
def _load(aligner: str, language: str | None, fingerprint: str) -> "Aligner":
    loaded = load_aligner(aligner, language)
    if loaded.fingerprint != fingerprint:
        raise LstError(f"The aligner {aligner} changed while it was in use.", hint="Run the command again.")
    return loaded
