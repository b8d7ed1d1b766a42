"""The stage `ingest`: a folder of recordings -> `lst.audio/1`, one row per utterance that can be used.

Every recording is decoded once, to the end, and judged; nothing is copied or converted. Rows point into the source
(`location.root` + `audio_path`, `offset_s`, `duration_s`) and carry its SHA-256, so that later stages read what was
judged.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from lst.audio.card import CorpusCard, find_card
from lst.audio.corpora import CorpusReader, find_reader
from lst.audio.cut import cut_at_pauses, detect_speech
from lst.audio.decode import EXTENSIONS, AudioInfo, probe
from lst.audio.errors import AudioError
from lst.audio.level import measure
from lst.audio.plan import Plan, PlannedUtterance, PlanSlice
from lst.audio.text import clean_text, expected_script, script_share
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
    explain_os_errors,
    partial_path,
    sha256_json,
)

SCHEMA = "lst.audio/1"
VERSION = 1

BEYOND_S = 0.5
"""A part may end so much after its recording, by the rounding of times; it is then shortened."""

OTHER_AUDIO = (".m4a", ".aac", ".wma", ".mp4", ".m4b", ".webm", ".amr", ".sph", ".aiff", ".aif")
"""What people have and libsndfile does not read (or is not taken for speech): named in the error message."""

Corpus = Literal[
    "auto", "librispeech", "librilight", "peoples-speech", "mls", "spotify", "ljspeech", "tsv", "kaldi", "folder"
]
Script = Literal[
    "auto",
    "any",
    "latin",
    "cyrillic",
    "greek",
    "arabic",
    "hebrew",
    "devanagari",
    "han",
    "japanese",
    "hangul",
    "thai",
]


class IngestConfig(StageConfig):
    """What is taken from a source, and what is rejected."""

    corpus: Corpus = Field(default="auto", description="Layout of the source; auto: recognised by its files.")
    name: str = Field(
        default="",
        description="Begins the ids of rows; empty: the name in corpus.json, else that of the layout.",
        pattern=r"^[\w.-]*$",
    )
    language: str = Field(
        default="",
        description="Language of utterances that do not say; empty: from corpus.json or the layout, else en.",
    )
    script: Script = Field(
        default="auto",
        description="Script that at least half of a transcript's letters must be in; auto: that of the language.",
    )
    require_text: bool = Field(default=False, description="Reject utterances without a transcript.")
    max_text_chars: int = Field(default=10_000, description="Longest transcript, in characters.", gt=0)
    min_s: float = Field(default=0.2, description="Shortest row, in seconds.", gt=0)
    max_s: float = Field(
        default=40.0, description="Longest row, in seconds; what is longer is rejected, or cut with segment.", gt=0
    )
    silence_dbfs: float = Field(
        default=-55.0, description="Reject as silent what has no tenth of a second louder than this (dB of full scale)."
    )
    max_clipped: float = Field(
        default=0.01, description="Reject as clipped what has a larger share of samples at full scale.", ge=0, le=1
    )
    segment: Literal["none", "energy", "silero"] = Field(
        default="none", description="How to find the pauses at which recordings longer than max_s are cut."
    )
    pad_s: float = Field(default=0.1, description="Silence kept on both sides of a segment, in seconds.", ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> "IngestConfig":
        if self.min_s >= self.max_s:
            raise ValueError(f"min_s ({self.min_s}) must be less than max_s ({self.max_s})")
        return self


def ingest_spec(src: Path, config: IngestConfig) -> StageSpec:
    """What ingesting `src` will make. Lists the source and hashes new recordings (remembered in the user's cache).

    Raises LstError if `src` does not exist or holds no audio.
    """
    reader, card, config = _settle(Path(src), config)
    with _plan(Path(src), reader, config) as plan:
        return _spec(plan, card, config)


def ingest(
    src: Path,
    out: Path,
    config: IngestConfig,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    force: bool = False,
    max_rejected: float = 1.0,
) -> Manifest:
    """Check every utterance of `src` and write those that can be used to `out`, in `workers` processes.

    What cannot be used is counted by reason: audio-missing, audio-unreadable, audio-empty, audio-truncated, not-finite,
    outside-audio, too-short, too-long, silent, clipped, no-speech, transcript-missing, transcript-unreadable,
    text-too-long, text-other-script, invalid-utf8, duplicate-id, bad-line. Raises LstError as `build_shards` does, and
    as `ingest_spec`.
    """
    src, out = Path(src), Path(out)
    reader, card, config = _settle(src, config)
    with _plan(src, reader, config, progress) as plan:
        spec = _spec(plan, card, config)
        made = existing_output(out, spec, force=force)
        if made is not None:
            return made
        if config.segment == "silero":
            from lst.audio.cut import load_silero

            load_silero()  # say now that it is missing, not in a worker
        with explain_os_errors(f"writing {out}"):
            partial = partial_path(Path(os.path.abspath(out)), spec.id)
            partial.mkdir(parents=True, exist_ok=True)
            plan.save(partial / "plan.jsonl")
        return build_shards(
            out,
            spec,
            plan.slices(partial / "plan.jsonl"),
            IngestWorker(str(plan.root), config),
            workers=workers,
            progress=progress,
            force=force,
            max_rejected=max_rejected,
            location={"root": relative_root(plan.root, out)},
        )


def relative_root(root: Path, out: Path) -> str:
    """How `out` refers to the source: relative if they share more than the file system's root, so both can move."""
    root, out = Path(os.path.abspath(root)), Path(os.path.abspath(out))
    if os.path.commonpath([root, out]) == root.anchor:
        return root.as_posix()
    return Path(os.path.relpath(root, out)).as_posix()


def _settle(src: Path, config: IngestConfig) -> tuple[CorpusReader, CorpusCard, IngestConfig]:
    """The reader and the card of a source, and the configuration with what was left open filled in from them."""
    if not src.exists():
        raise LstError(f"{src} does not exist.", hint="Give the folder of a corpus, or a .tsv that lists recordings.")
    reader = find_reader(config.corpus, src)
    card = find_card(src, reader)
    settled = config.model_copy(
        update={
            "corpus": reader.name,
            "name": config.name or card.name or reader.name,
            "language": config.language or card.language or reader.language or "en",
        }
    )
    return reader, card, settled


def _plan(src: Path, reader: CorpusReader, config: IngestConfig, progress: Progress | None = None) -> Plan:
    try:
        plan = Plan(reader.read(src), src, name=config.name, language=config.language, progress=progress)
    except FileNotFoundError as error:
        raise LstError(f"{error.filename} does not exist.", hint=_expected(reader)) from error
    if plan.count == 0:
        raise LstError(f"No recordings found in {src} ({_looked_for(src)}).", hint=_expected(reader))
    return plan


def _expected(reader: CorpusReader) -> str:
    return f"Read as {reader.name}, which has {reader.expects}; another layout can be named with --corpus."


def _looked_for(src: Path) -> str:
    from lst.audio.corpora.base import first_file

    text = f"looked for {', '.join(EXTENSIONS)}"
    other = first_file(src, lambda name: name.lower().endswith(OTHER_AUDIO)) if src.is_dir() else None
    return f"{text}; {other.name} would have to be converted" if other is not None else text


def _spec(plan: Plan, card: CorpusCard, config: IngestConfig) -> StageSpec:
    provenance = card.entries(plan.folders)
    return StageSpec(
        schema=SCHEMA,
        stage="ingest",
        version=VERSION,
        config=config.as_json(),
        provenance=provenance,
        files={"utterances": plan.digest, "provenance": sha256_json(provenance)},
    )


@dataclass(frozen=True)
class IngestWorker:
    """Checks the utterances of one slice of the plan. Pure: what it returns depends on the slice and the recordings."""

    root: str
    config: IngestConfig

    def __call__(self, task: PlanSlice) -> ShardResult:
        """Rows and rejections in the order of the plan."""
        shard = _Shard(self.config, self.root)
        for utterance in task.read():
            shard.add(utterance)
        return ShardResult(shard.rows, shard.rejected, shard.totals)


class _Shard:
    """What has been made of a slice so far."""

    def __init__(self, config: IngestConfig, root: str) -> None:
        self.config = config
        self.root = root
        self.rows: list[dict[str, Any]] = []
        self.rejected: list[Rejection] = []
        self.totals: dict[str, float] = {"hours": 0.0, "transcribed": 0}
        if config.segment != "none":
            self.totals["silence_hours"] = 0.0

    def add(self, utterance: PlannedUtterance) -> None:
        if utterance.problem is not None:
            self.reject(utterance.id, *utterance.problem)
            return
        try:
            self._check(utterance)
        except AudioError as error:
            message = error.message.replace(f"{self.root}{os.sep}", "")
            self.reject(utterance.id, error.reason, message)

    def reject(self, row_id: str, reason: str, detail: str) -> None:
        self.rejected.append(Rejection(row_id, reason, detail))

    def _check(self, utterance: PlannedUtterance) -> None:
        text = clean_text(utterance.text)
        problem = text_problem(text, utterance.language, self.config)
        if problem is not None:
            self.reject(utterance.id, *problem)
            return
        path = os.path.join(self.root, utterance.address)
        info = probe(path)
        offset = utterance.offset_s
        length = info.duration_s - offset
        if length <= 0 or (utterance.duration_s is not None and utterance.duration_s > length + BEYOND_S):
            detail = f"ends at {info.duration_s:.2f} s"
            self.reject(utterance.id, "outside-audio", detail)
            return
        duration = length if utterance.duration_s is None else min(length, utterance.duration_s)
        if duration > self.config.max_s and self.config.segment != "none":
            self._cut(utterance, path, info, offset, duration)
        else:
            self._judge(utterance.id, utterance, path, info, offset, duration, text)

    def _cut(self, utterance: PlannedUtterance, path: str, info: AudioInfo, offset: float, duration: float) -> None:
        """Divide a long recording. Its transcript belongs to no single segment and is left out."""
        if self.config.require_text:
            detail = f"{duration:.1f} s: a transcript cannot be divided among segments"
            self.reject(utterance.id, "too-long", detail)
            return
        activity = detect_speech(path, self.config.segment, offset_s=offset, duration_s=duration)
        segments = cut_at_pauses(activity, max_s=self.config.max_s, pad_s=self.config.pad_s)
        self.totals["silence_hours"] += (duration - sum(end - start for start, end in segments)) / 3600
        if not segments:
            self.reject(utterance.id, "no-speech", f"{duration:.1f} s, no speech found by {self.config.segment}")
        for start, end in segments:
            # Milliseconds: what the id says is what the row holds.
            begin, length = round(offset + start, 3), round(end - start, 3)
            row_id = f"{utterance.stem}#{round(begin * 1000)}-{round((begin + length) * 1000)}"
            try:
                self._judge(row_id, utterance, path, info, begin, length, "")
            except AudioError as error:
                self.reject(row_id, error.reason, error.message.replace(f"{self.root}{os.sep}", ""))

    def _judge(
        self,
        row_id: str,
        utterance: PlannedUtterance,
        path: str,
        info: AudioInfo,
        offset: float,
        duration: float,
        text: str,
    ) -> None:
        """Decode the part; make it a row or reject it."""
        config = self.config
        if duration < config.min_s:
            self.reject(row_id, "too-short", f"{duration:.3f} s, the least is {config.min_s} s")
            return
        if duration > config.max_s:
            self.reject(row_id, "too-long", f"{duration:.1f} s, the most is {config.max_s} s (or cut it: segment)")
            return
        start = round(offset * info.sample_rate)
        level = measure(path, info.sample_rate, start, start + max(1, round(duration * info.sample_rate)))
        if level.loudest_dbfs < config.silence_dbfs:
            self.reject(row_id, "silent", f"nowhere louder than {level.loudest_dbfs:.0f} dBFS")
            return
        if level.clipped > config.max_clipped:
            self.reject(row_id, "clipped", f"{level.clipped:.1%} of the samples are at full scale")
            return
        if config.require_text and not text:
            self.reject(row_id, "transcript-missing", "")
            return
        self.totals["hours"] += duration / 3600
        self.totals["transcribed"] += bool(text)
        self.rows.append(
            {
                "id": row_id,
                "audio_path": utterance.address,
                "offset_s": offset,
                "duration_s": duration,
                "sample_rate": info.sample_rate,
                "channels": info.channels,
                "speaker": utterance.speaker,
                "text": text,
                "language": utterance.language,
                "sha256": utterance.sha256,
            }
        )


def text_problem(text: str, language: str, config: IngestConfig) -> tuple[str, str] | None:
    """Why a transcript cannot be used, as (reason, detail); None if it can, or if there is none."""
    if len(text) > config.max_text_chars:
        return "text-too-long", f"{len(text):,} characters, the most is {config.max_text_chars:,}"
    script = expected_script(config.script, language)
    if text and script is not None:
        share = script_share(text, script)
        if share < 0.5:
            return "text-other-script", f"{share:.0%} of its letters are {script} ({language}): {text[:40]!r}"
    return None
