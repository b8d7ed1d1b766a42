"""`lst eval vocoder`: do units still say what was said, how does it sound, and what does it cost?

Held-out utterances are spoken from their units. A recogniser and DNSMOS judge them and, beside them, the recordings
they came from: the recordings' errors are the judge's own, so what matters is the difference.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from lst.config import StageConfig
from lst.constants import FRAME_RATE, SAMPLE_RATE
from lst.evaluate.judge import Heard, Judge, JudgeName, QualityJudge
from lst.evaluate.report import vocoder_markdown
from lst.evaluate.speech_rows import chosen_rows, recordings_of
from lst.evaluate.stage import write_result
from lst.evaluate.statistics import bootstrap_interval
from lst.evaluate.words import Normaliser
from lst.manifest import DirectoryResult, Manifest, Progress, StageSpec, build_directory, write_atomic

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lst.vocoder import Vocoder

    Float = NDArray[np.float32]

VERSION = 1
HEARD_FILE = "heard.jsonl"
STREAM_BLOCK = 5
"""Units given to a stream at a time: 200 ms."""
STREAM_UNITS = 500
"""After so many units nothing more is streamed, to compare the two waveforms and their costs."""


class VocoderEvalConfig(StageConfig):
    """What is spoken, and who judges."""

    vocoder: str | None = Field(None, description="name or directory; null: the one made for these units")
    speaker: str = Field("", description="speaker, of a vocoder that has several")
    rows: int = Field(100, ge=1, description="utterances, chosen by a hash of seed and id")
    longest_s: float = Field(25.0, gt=0, le=28, description="longer utterances are left out: the judge hears 30 s")
    judge: JudgeName = Field("whisper-base", description="recogniser: whisper-base, or whisper-tiny.en")
    language: str = Field("en", description="what is spoken")
    normaliser: Normaliser = Field("auto", description="simple, whisper, or auto: whisper where it is installed")
    seed: int = Field(0, ge=0, description="of the choice of rows and of the intervals")


def vocoder_spec(units: Manifest, audio: Manifest, config: VocoderEvalConfig) -> StageSpec:
    """What `evaluate_vocoder` would make. The vocoder counts by its fingerprint, not by where it lies."""
    from lst.vocoder import vocoder_fingerprint, vocoder_name

    vocoder = _chosen(units, config)
    return StageSpec(
        schema="lst.eval/1",
        stage="eval-vocoder",
        version=VERSION,
        config={**config.as_json(), "vocoder": vocoder_name(vocoder)},
        inputs={"units": units, "audio": audio},
        fingerprints={**units.fingerprints, "vocoder": vocoder_fingerprint(vocoder)},
        provenance=units.provenance,
    )


def evaluate_vocoder(
    units: Manifest,
    audio: Manifest,
    out: Path,
    config: VocoderEvalConfig,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    force: bool = False,
) -> Manifest:
    """Speak held-out utterances of `units`, judge them beside their recordings, and write `lst.eval/1` to `out`.

    `workers` is ignored: one process judges, on one thread, so that its times can be compared. Raises LstError without
    the extra `judge`, without a vocoder for the units, or without rows that have a text.
    """
    spec = vocoder_spec(units, audio, config)

    def make(directory: Path) -> DirectoryResult:
        summary, heard = measure_vocoder(units, audio, config, progress=progress)
        write_atomic(directory / HEARD_FILE, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in heard))
        return write_result(directory, summary, vocoder_markdown(summary), [HEARD_FILE])

    return build_directory(out, spec, make, force=force)


def measure_vocoder(
    units: Manifest, audio: Manifest, config: VocoderEvalConfig, *, progress: Progress | None = None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The summary, and what was heard: {"what", "ids", "text", "heard"}, a line for each group of joined utterances."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    from lst.vocoder import load_vocoder

    report = progress or (lambda *_: None)
    judge, quality = Judge(config.judge, language=config.language), QualityJudge()
    vocoder = load_vocoder(
        _chosen(units, config),
        tokenizer=units.fingerprints.get("tokenizer") or None,
        told_by=units,
        speaker=config.speaker,
    )
    rows = chosen_rows(units, config.rows, seed=config.seed, longest_s=config.longest_s)
    with threadpool_limits(1):
        recordings = list(recordings_of(audio, rows))
        spoken, cost = _speak(vocoder, [row["units"] for row in rows])
        total = 2 * len(rows)
        texts = [row["text"] for row in rows]
        sets, heard = {}, []
        for number, (what, clips) in enumerate({"recordings": recordings, "vocoder": spoken}.items()):
            start = number * len(rows)
            told = _reporting(clips, lambda done, start=start: report(start + done, total, "utterances"))
            result = judge.errors(told, texts, normaliser=config.normaliser, seed=config.seed)
            sets[what] = judged_numbers(result, [quality.rate(clip) for clip in clips], config.seed)
            heard += [
                {
                    "what": what,
                    "ids": [rows[index]["id"] for index in group],
                    "text": " ".join(texts[index] for index in group),
                    "heard": transcript,
                }
                for group, transcript in zip(result.groups, result.transcripts, strict=True)
            ]
        report(total, total, "utterances")
    summary = {
        "vocoder": vocoder.name,
        "judge": judge.name,
        "quality": quality.name,
        "normaliser": result.errors.normaliser,
        "utterances": len(rows),
        "seconds": round(sum(len(row["units"]) for row in rows) / FRAME_RATE, 2),
        "sets": sets,
        **cost,
        "totals": {"rows": len(rows), "cer": sets["vocoder"]["cer"], "dnsmos": sets["vocoder"]["dnsmos"]},
    }
    return summary, heard


def _chosen(units: Manifest, config: VocoderEvalConfig) -> str:
    from lst.vocoder import choose_vocoder

    return choose_vocoder(config.vocoder, units.fingerprints.get("tokenizer", ""), str(units.path), told_by=units)


def _speak(vocoder: "Vocoder", utterances: list[list[int]]) -> tuple[list["Float"], dict[str, float]]:
    """Waveforms; CPU-seconds per second of speech, whole and in a stream; how far the two are apart."""
    vocoder.synthesize(utterances[0])  # what is built once is not counted
    started = process_time()
    spoken = [vocoder.synthesize(units) for units in utterances]
    whole = process_time() - started
    difference, streamed = 0.0, 0
    started = process_time()
    for units, samples in zip(utterances, spoken, strict=True):
        if streamed >= STREAM_UNITS:
            break
        pieces = np.concatenate(list(vocoder.stream(units, STREAM_BLOCK)))
        difference = max(difference, float(np.abs(pieces - samples).max()))
        streamed += len(units)
    stream = process_time() - started
    return spoken, {
        "real_time_factor": round(whole / (sum(map(len, spoken)) / SAMPLE_RATE), 5),
        "real_time_factor_streaming": round(stream / (streamed / FRAME_RATE), 5),
        "stream_difference": float(f"{difference:.2e}"),
    }


def _reporting(clips: list["Float"], tell: Any) -> Iterator["Float"]:
    for done, clip in enumerate(clips):
        tell(done)
        yield clip


def judged_numbers(heard: Heard, quality: list[float], seed: int) -> dict[str, Any]:
    """CER, WER and DNSMOS with their intervals, flat."""
    rated = bootstrap_interval(quality, seed=seed)
    return {
        "cer": round(heard.errors.cer, 5),
        "cer_low": round(heard.cer.low, 5),
        "cer_high": round(heard.cer.high, 5),
        "wer": round(heard.errors.wer, 5),
        "wer_low": round(heard.wer.low, 5),
        "wer_high": round(heard.wer.high, 5),
        "words": heard.errors.words,
        "dnsmos": round(rated.mean, 4),
        "dnsmos_low": round(rated.low, 4),
        "dnsmos_high": round(rated.high, 4),
    }
