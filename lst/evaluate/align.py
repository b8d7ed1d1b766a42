"""`lst eval align`: how far an aligner's words are from where they were said, whether it notices a wrong transcript,
how far it is from another aligner, and what it costs.

True times come from a synthesiser that says when it spoke each word (`recipes/assets/speak_piper.py` writes them), as
JSON lines: {"file": "a.wav", "words": [{"text": "One", "start_s": 0.058, "end_s": 0.2206}, ...]}. A wrong transcript
is that of another row, the nearest in length.
"""

import json
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from lst.align.calibrate import read_words
from lst.config import StageConfig
from lst.constants import FRAME_RATE, SAMPLE_RATE
from lst.errors import LstError
from lst.evaluate.report import align_markdown
from lst.evaluate.speech_rows import audio_rows, chosen_rows
from lst.evaluate.stage import write_result
from lst.evaluate.statistics import bootstrap_interval
from lst.manifest import (
    DirectoryResult,
    Manifest,
    Progress,
    StageSpec,
    build_directory,
    sha256_file,
    write_atomic,
)

if TYPE_CHECKING:
    from lst.align.base import Aligner, Alignment

VERSION = 1
ROWS_FILE = "rows.jsonl"
Span = tuple[float, float]


class AlignEvalConfig(StageConfig):
    """What is aligned, and what it is compared with."""

    aligner: str = Field("pocketsphinx", description="pocketsphinx, a named CTC aligner, or the path of one")
    other: str | None = Field(None, description="another aligner, whose words are compared with this one's")
    rows: int = Field(100, ge=2, description="utterances, chosen by a hash of seed and id")
    longest_s: float = Field(60.0, gt=0, description="longer utterances are left out")
    false_rejection: float = Field(0.02, gt=0, lt=1, description="share of right transcripts that may be rejected")
    seed: int = Field(0, ge=0, description="of the choice of rows and of the intervals")


def align_spec(units: Manifest, audio: Manifest, config: AlignEvalConfig, words: Path | None = None) -> StageSpec:
    """What `evaluate_align` would make. Aligners count by their fingerprints, not by where they lie."""
    from lst.align.loading import aligner_fingerprint, aligner_name

    names = {"aligner": config.aligner, **({"other": config.other} if config.other else {})}
    return StageSpec(
        schema="lst.eval/1",
        stage="eval-align",
        version=VERSION,
        config={**config.as_json(), **{role: aligner_name(name) for role, name in names.items()}},
        inputs={"units": units, "audio": audio},
        fingerprints={role: aligner_fingerprint(name) for role, name in names.items()},
        provenance=units.provenance,
        files={} if words is None else {"words": sha256_file(words)},
    )


def evaluate_align(
    units: Manifest,
    audio: Manifest,
    out: Path,
    config: AlignEvalConfig,
    *,
    words: Path | None = None,
    workers: int = 1,
    progress: Progress | None = None,
    force: bool = False,
) -> Manifest:
    """Align utterances of `units` with right and wrong transcripts, and write `lst.eval/1` to `out`.

    `words`: true times (see the module), for the boundary error. `workers` is ignored: one process, one thread, so
    that its times can be compared. Raises LstError for a file of words that cannot be read or fits no row.
    """

    if words is not None:
        read_words(words)  # refused before anything is aligned

    def make(directory: Path) -> DirectoryResult:
        summary, rows = measure_align(units, audio, config, words=words, progress=progress)
        write_atomic(directory / ROWS_FILE, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return write_result(directory, summary, align_markdown(summary), [ROWS_FILE])

    return build_directory(out, align_spec(units, audio, config, words), make, force=force)


def measure_align(
    units: Manifest,
    audio: Manifest,
    config: AlignEvalConfig,
    *,
    words: Path | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The summary, and a line for each utterance: scores of the right and the wrong transcript, and why rejected."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    from lst.align.loading import default_min_score, load_aligner

    report = progress or (lambda *_: None)
    rows = chosen_rows(units, config.rows, seed=config.seed, longest_s=config.longest_s)
    sources = audio_rows(audio, rows)
    wrong = wrong_texts([row["text"] for row in rows])
    truth = {} if words is None else read_words(words)
    aligner = load_aligner(config.aligner)
    other = None if config.other is None else load_aligner(config.other)
    found: list[dict[str, Any]] = []
    errors, apart, on_grid = _Differences(), _Differences(), _Differences()
    seconds = cost = 0.0
    with threadpool_limits(1):
        aligner.align(np.zeros(SAMPLE_RATE, np.float32), rows[0]["text"], FRAME_RATE)  # loads what it needs
        for done, (row, text) in enumerate(zip(rows, wrong, strict=True)):
            report(done, len(rows), "utterances")
            samples = _open(audio, sources[row["id"]])
            started = process_time()
            right = aligner.align(samples, row["text"], len(row["units"]))
            cost += process_time() - started
            seconds += len(samples) / SAMPLE_RATE
            false = aligner.align(samples, text, len(row["units"]))
            spans = _spans(right)
            errors.add(spans, _truth(truth, sources[row["id"]], right))
            on_grid.add(
                [(word.start / FRAME_RATE, word.end / FRAME_RATE) for word in right.words],
                _truth(truth, sources[row["id"]], right),
            )
            if other is not None:
                apart.add(spans, _spans(_aligned(other, samples, row)))
            found.append(_row(row["id"], right, false))
        report(len(rows), len(rows), "utterances")
    if words is not None and not errors.starts:
        raise LstError(f"{words} names none of the recordings that were aligned.", hint="Give the words of this data.")
    summary = {
        "aligner": aligner.name,
        "other": None if other is None else other.name,
        "utterances": len(rows),
        "seconds": round(seconds, 2),
        "words": errors.numbers(config.seed),
        "words_on_grid": on_grid.numbers(config.seed),
        "agreement": apart.numbers(config.seed),
        "rejection": rejection(found, default_min_score(config.aligner), config.false_rejection, config.seed),
        "audio_seconds_per_cpu_second": round(seconds / max(cost, 1e-9), 2),
    }
    totals = {"rows": len(rows), "words": len(errors.starts)}
    return {**summary, "totals": totals}, found


def rejection(found: list[dict[str, Any]], limit: float, false_rejection: float, seed: int) -> dict[str, Any]:
    """Shares of right and wrong transcripts rejected: at the limit that `lst align` uses, and at the one that rejects
    the share `false_rejection` of these right ones. A transcript that cannot be aligned counts as scored 0.
    """
    right = np.array([row["right"] for row in found])
    wrong = np.array([row["wrong"] for row in found])
    chosen = float(np.sort(right)[int(false_rejection * len(right))])
    rates: dict[str, Any] = {"utterances": len(found)}
    for name, threshold in {"default": limit, "chosen": chosen}.items():
        caught = bootstrap_interval((wrong < threshold).astype(float), seed=seed)
        rates[name] = {
            "min_score": round(threshold, 4),
            "right_rejected": round(float((right < threshold).mean()), 5),
            "wrong_rejected": round(caught.mean, 5),
            "wrong_rejected_low": round(caught.low, 5),
            "wrong_rejected_high": round(caught.high, 5),
        }
    return rates


def wrong_texts(texts: list[str]) -> list[str]:
    """For each text another one: of those that differ, the nearest in length. Raises LstError if all are the same."""
    wrong = []
    for index, text in enumerate(texts):
        others = [(abs(len(other) - len(text)), place) for place, other in enumerate(texts) if other != text]
        if not others:
            raise LstError("All transcripts are the same: there is no wrong one to try.", hint="Give more recordings.")
        # Among equals, the next in order: not one text for everybody.
        nearest = min(others, key=lambda pair: (pair[0], (pair[1] - index) % len(texts)))
        wrong.append(texts[nearest[1]])
    return wrong


class _Differences:
    """Starts and ends of words, in seconds: one side minus the other."""

    def __init__(self) -> None:
        self.starts: list[float] = []
        self.ends: list[float] = []
        self.left_out = 0

    def add(self, found: list[Span], expected: list[Span] | None) -> None:
        """One utterance; left out (and counted) if the two sides do not have the same words."""
        if expected is None:
            return
        if not found or len(found) != len(expected):
            self.left_out += 1
            return
        self.starts += [one[0] - two[0] for one, two in zip(found, expected, strict=True)]
        self.ends += [one[1] - two[1] for one, two in zip(found, expected, strict=True)]

    def numbers(self, seed: int) -> dict[str, Any] | None:
        """Distances of starts, of ends, and of both, and how many utterances were left out."""
        if not self.starts:
            return None
        kinds = {"all": self.starts + self.ends, "starts": self.starts, "ends": self.ends}
        return {name: _distances(values, seed) for name, values in kinds.items()} | {
            "utterances_left_out": self.left_out
        }


def _distances(differences: list[float], seed: int) -> dict[str, Any]:
    """In milliseconds; `median_signed_ms` is above 0 where words are found late."""
    distances = np.abs(np.array(differences)) * 1000
    return {
        "boundaries": len(distances),
        "median_ms": round(float(np.median(distances)), 2),
        "p90_ms": round(float(np.quantile(distances, 0.9)), 2),
        "mean_ms": round(bootstrap_interval(distances, seed=seed).mean, 2),
        "within_20_ms": round(float((distances <= 20).mean()), 4),
        "within_60_ms": round(float((distances <= 60).mean()), 4),
        "median_signed_ms": round(float(np.median(differences)) * 1000, 2),
    }


def _spans(alignment: "Alignment") -> list[Span]:
    return [(word.start_s, word.end_s) for word in alignment.times]


def _truth(truth: dict[str, list[dict[str, Any]]], source: dict[str, Any], alignment: "Alignment") -> list[Span] | None:
    """The true times of a row's words; None if they are not known. Words must be the same on both sides."""
    known = truth.get(source["audio_path"])
    if known is None or source["offset_s"]:
        return None
    if [word["text"] for word in known] != [word.text for word in alignment.words]:
        return []
    return [(word["start_s"], word["end_s"]) for word in known]


def _aligned(aligner: "Aligner", samples: Any, row: dict[str, Any]) -> "Alignment":
    return aligner.align(samples, row["text"], len(row["units"]))


def _open(audio: Manifest, source: dict[str, Any]) -> Any:
    from lst.audio import open_row_audio

    return open_row_audio(audio, source)


def _row(row_id: str, right: "Alignment", wrong: "Alignment") -> dict[str, Any]:
    scores = {name: 0.0 if one.rejected else float(one.score) for name, one in (("right", right), ("wrong", wrong))}
    return {"id": row_id, **scores, "right_rejected": right.rejected, "wrong_rejected": wrong.rejected}
