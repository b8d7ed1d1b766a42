"""A small run directory with every kind of stage, made from a seed: no model is trained, no benchmark scored."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from lst.data.stage import InterleaveConfig, interleave
from lst.manifest import (
    DirectoryResult,
    Manifest,
    Rejection,
    ShardResult,
    StageSpec,
    build_directory,
    build_shards,
    iter_rows,
    sha256_file,
    write_json,
)
from lst.train.stage import PretrainConfig
from tests.data.synthetic import make_aligned, make_text

EVIL = '</q></p><script>alert("x")</script><img src="https://evil.example/x.png"> \u202e\ud800\x00 é'
"""What a transcript from outside may hold."""

STEPS = 60


def make_run(root: Path) -> Path:
    """The run directory `root / "run"`."""
    out = root / "run"
    out.mkdir(parents=True)
    aligned, text = make_alignment(out / "aligned", root), make_text(out / "text", 80)
    pairs = interleave(aligned, text, out / "pairs", InterleaveConfig(valid_fraction=0.2))
    made = {"ingest": make_audio(out / "ingest", pairs), "aligned": aligned, "text": text, "pairs": pairs}
    made["pretrain"] = make_model(out / "pretrain", "pretrain", {"pairs": pairs, "text": text})
    made["finetune-asr"] = make_model(out / "finetune-asr", "finetune", {"model": made["pretrain"], "pairs": pairs})
    made["cloze"] = make_eval(out / "cloze", "eval-storycloze", made["pretrain"], CLOZE)
    made["losses"] = make_eval(out / "losses", "eval-losses", made["pretrain"], LOSSES)
    made["samples"] = make_samples(out / "samples", made["pretrain"])
    record(out, made)
    return out


def record(out: Path, made: dict[str, Manifest]) -> None:
    stages = {name: {"id": item.id, "seconds": 1.5, "peak_mb": 200} for name, item in made.items()}
    write_json(out / "run.json", {"recipe": "toy", "stages": stages})


def drop(run: Path, *names: str) -> None:
    """Remove stages from a run, as if they had never been in its recipe."""
    body = json.loads((run / "run.json").read_text())
    for name in names:
        shutil.rmtree(run / name)
        del body["stages"][name]
    write_json(run / "run.json", body)


def make_alignment(out: Path, root: Path) -> Manifest:
    rows = list(iter_rows(make_aligned(root / "elsewhere", 40)))
    report = {"mean_score": 0.91, "coverage": 0.8, "by_corpus": {"toy": 40}, "scores": [1, 2, 3]}
    spec = StageSpec("lst.aligned/1", "align", 1, {}, fingerprints={"tokenizer": "t" * 64})
    result = ShardResult(rows, [Rejection("corpus/x.wav#0", "text-mismatch")], {"words": 400.0})
    return build_shards(out, spec, [0], lambda _: result, artifacts={"report.json": json.dumps(report).encode()})


def tone(seconds: float) -> np.ndarray:
    time = np.arange(round(seconds * 16000)) / 16000
    return (0.3 * np.sin(2 * np.pi * 220 * time) * np.hanning(len(time))).astype(np.float32)


def make_audio(out: Path, pairs: Manifest) -> Manifest:
    recordings = out.parent.parent / "recordings"
    rows = []
    for row in iter_rows(pairs, ["id", "duration_s", "text"]):
        name = row["id"].split("/")[1].split("#")[0]
        recordings.mkdir(exist_ok=True)
        sf.write(recordings / name, tone(row["duration_s"]), 16000)
        fixed = {"offset_s": 0.0, "sample_rate": 16000, "channels": 1, "speaker": "anna", "language": "en"}
        rows.append({**row, **fixed, "audio_path": name, "sha256": sha256_file(recordings / name)})
    spec = StageSpec("lst.audio/1", "ingest", 1, {}, provenance=[CORPUS])
    hours = sum(row["duration_s"] for row in rows) / 3600
    rejected = [Rejection("corpus/broken.wav#0", "audio-unreadable", "no header")]
    location = {"root": str(recordings)}
    return build_shards(out, spec, [0], lambda _: ShardResult(rows, rejected, {"hours": hours}), location=location)


CORPUS = {"corpus": "toy <b>corpus</b>", "licence": "CC0-1.0", "source": "https://example.org/toy?a=1&b=2"}


def lines() -> list[dict[str, Any]]:
    """What `RunRecorder` writes."""
    found: list[dict[str, Any]] = []
    for step in range(10, STEPS + 1, 10):
        rates = {"loss": 6 - step / 30, "speech_bits_per_second": 220 - step, "text_bits_per_token": 11 - step / 10}
        found.append({"step": step, "split": "train", **rates, "patch_length": 8 - step / 15, "speech_share": 0.3})
        if step % 30 == 0:
            found.append({"step": step, "split": "valid", **rates, "sets": {"speech": rates}})
    return found


def make_model(out: Path, stage: str, inputs: dict[str, Manifest]) -> Manifest:
    config = PretrainConfig.model_validate(
        {"patching": {"mode": "curriculum"}, "batch": {"sequence_units": 64, "rows": 2}, "budget": {"amount": STEPS}}
    )
    settings = config.as_json() | ({"task": "asr"} if stage == "finetune" else {})
    spec = StageSpec("lst.model/1", stage, 1, settings, inputs, provenance=[CORPUS])

    def make(directory: Path) -> DirectoryResult:
        text = "".join(json.dumps(line) + "\n" for line in lines())
        (directory / "metrics.jsonl").write_text(text + '{"step": 70, "spl')
        losses = {"first_loss": 6.0, "train_loss": 4.0, "valid_loss": 4.5}
        totals = {"parameters": 1000, "steps": STEPS, "units": 8000, "text_tokens": 9000, **losses}
        totals |= {"speech_patches": 1000, "global_units": 12000}
        return DirectoryResult(["metrics.jsonl"], totals)

    return build_directory(out, spec, make)


CLOZE = {
    "benchmark": "toy <cloze>",
    "protocol": "log p",
    "confidence": 0.95,
    "rejected": {"no-audio": 2},
    "modes": {
        mode: {
            "n": 50,
            "chance": 0.5,
            "headline": "mean",
            "accuracy": 0.6,
            "low": 0.46,
            "high": 0.73,
            "variants": {"mean": {"accuracy": 0.6, "low": 0.46, "high": 0.73}},
            "note": "only 50 items",
        }
        for mode in ("s-s", "t-t")
    },
    "missing_modes": ["s-t"],
    "totals": {"items": 50},
}
LOSSES = {
    "sets": {
        "speech": {"documents": 3, "text_tokens": 0, "seconds": 9.5, "speech_bits_per_second": 188.123},
        "text": {"documents": 5, "text_tokens": 90, "seconds": 0.0, "text_bits_per_token": 7.654},
    },
    "missing": ["interleaved"],
    "totals": {"bits per second of speech": 188.123, "bits per text token": 7.654},
}


def make_eval(out: Path, stage: str, model: Manifest, summary: dict[str, Any]) -> Manifest:
    def make(directory: Path) -> DirectoryResult:
        write_json(directory / "summary.json", summary)
        return DirectoryResult(["summary.json"], summary["totals"])

    return build_directory(out, StageSpec("lst.eval/1", stage, 1, {}, {"model": model}, provenance=[CORPUS]), make)


ENTRIES: list[dict[str, Any]] = [
    {
        "kind": "transcribe",
        "id": "corpus/a.wav#0",
        "held_out": False,
        "reference": "the cat sat",
        "text": EVIL.replace("\ud800", ""),
        "stopped": "length",
        "original": "a.wav",
        "units_only": "a.wav",
    },
    {"kind": "synthesize", "text": "hello", "stopped": "end", "spoken": "a.wav"},
    {
        "kind": "continue",
        "id": "corpus/b.wav#0",
        "held_out": True,
        "prompt_s": 3.0,
        "reference": "once upon",
        "text": "",
        "stopped": "end",
        "prompt": "a.wav",
        "whole": "gone.wav",
    },
]


def make_samples(out: Path, model: Manifest, sound: Callable[[], np.ndarray] = lambda: tone(0.5)) -> Manifest:
    def make(directory: Path) -> DirectoryResult:
        sf.write(directory / "a.wav", sound(), 16000)
        body = {"samples": ENTRIES, "asr": {"wer": 1.5, "cer": 0.9, "recordings": 1}}
        write_json(directory / "samples.json", body)
        rows = [{"id": "a", "path": "a.wav", "duration_s": 0.5}]
        return DirectoryResult(["samples.json", "a.wav"], {"samples": 3}, rows=rows)

    return build_directory(out, StageSpec("lst.waves/1", "samples", 1, {}, {"model": model}), make)
