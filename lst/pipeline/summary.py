"""What a run made, from its manifests: the facts, the table printed at the end, and the report."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lst.errors import LstError
from lst.manifest import Manifest, load_manifest
from lst.pipeline.run import read_runs

REPORT_FILE = "report.html"
MANY = 8
"""Stages, or paths, that are told one by one at most."""


def run_summary(out: Path, report: Path | None) -> dict[str, Any]:
    """Facts of the run in `out`, as far as its stages are there.

    A fact of several stages, such as two pre-trainings, has the stage's name before it: `base.parameters`.
    """
    made = stage_manifests(out)
    described = {
        name: _DESCRIBERS[manifest.schema](manifest)
        for name, manifest in made.items()
        if manifest.schema in _DESCRIBERS
    }
    shared = Counter(key for found in described.values() for key in found)
    facts: dict[str, Any] = {
        f"{name}.{key}" if shared[key] > 1 else key: value
        for name, found in described.items()
        for key, value in found.items()
    }
    stages = read_runs(out)["stages"].values()
    facts["minutes"] = round(sum(stage["seconds"] for stage in stages) / 60, 1)
    facts["peak_memory_mb"] = max((stage["peak_mb"] for stage in stages), default=0)
    facts["models"] = {name: str(item.path) for name, item in made.items() if item.schema == "lst.model/1"}
    facts["wavs"] = [str(item.path) for item in made.values() if item.schema == "lst.waves/1"]
    if report is not None:
        facts["report"] = str(report)
    return facts


def stage_manifests(out: Path) -> dict[str, Manifest]:
    """The finished stages below `out` in the order in which they were first made."""
    made = {}
    for name, entry in read_runs(out)["stages"].items():
        try:
            made[name] = load_manifest(out / entry.get("path", name))
        except LstError:
            continue  # interrupted while being made again: the table is of what is there
    return made


def write_report(out: Path, *, changed: bool) -> Path:
    """Write `report.html` if something changed since it was written (or it is not there). Returns its path."""
    path = out / REPORT_FILE
    if changed or not path.is_file():
        from lst.report import report

        report(out, path)
    return path


def summary_rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The facts as (name, value) lines for people; of one that more than `MANY` stages have, how many they are."""
    rows = []
    for key, label, form in _LABELS:
        told = []
        for found, value in facts.items():
            name, _, last = found.rpartition(".")
            if last == key and (text := form(value)):
                told.append((f"{label}, {name}" if name else label, text))
        rows += told if len(told) <= MANY else [(label, f"of {len(told)} stages: see the report")]
    return rows


def _audio(manifest: Manifest) -> dict[str, Any]:
    return {"hours": round(manifest.totals["hours"], 3), "utterances": manifest.rows, "rejected": manifest.rejected}


def _units(manifest: Manifest) -> dict[str, Any]:
    return {"units": int(manifest.totals["units"])}


def _aligned(manifest: Manifest) -> dict[str, Any]:
    return {"words_aligned": int(manifest.totals["words"]), "not_aligned": manifest.rejected}


def _pairs(manifest: Manifest) -> dict[str, Any]:
    return {"units_per_word": round(manifest.totals["units"] / max(1, manifest.totals["words"]), 2)}


def _text(manifest: Manifest) -> dict[str, Any]:
    return {"text_tokens": int(manifest.totals.get("tokens", 0))}


def _model(manifest: Manifest) -> dict[str, Any]:
    totals = manifest.totals
    losses = {key: totals[key] for key in ("first_loss", "train_loss", "valid_loss") if key in totals}
    if manifest.stage != "pretrain":
        return {f"{manifest.stage}-{manifest.config.get('task', '')}_loss": losses}
    facts = {"pretrain_loss": losses, "parameters": int(totals["parameters"]), "steps": int(totals["steps"])}
    if totals.get("speech_patches"):
        facts["patches"] = int(totals["speech_patches"])
        facts["units_per_patch"] = round(totals["units"] / totals["speech_patches"], 2)
    return facts


def _eval(manifest: Manifest) -> dict[str, Any]:
    if manifest.stage == "eval-losses":
        return {"held_out": dict(manifest.totals)}
    summary = json.loads(manifest.file("summary.json").read_text(encoding="utf-8"))
    if manifest.stage == "eval-align":
        shares = {"wrong_rejected": summary["rejection"]["default"]["wrong_rejected"]}
        if summary["agreement"]:
            shares |= {
                f"{side}_within_60_ms": summary["agreement"][side]["within_60_ms"] for side in ("starts", "ends")
            }
        return {"alignment": {"aligner": summary["aligner"], "other": summary["other"], **shares}}
    modes = summary.get("modes", {})
    if not modes:
        return {manifest.stage.removeprefix("eval-"): dict(manifest.totals)}
    return {
        manifest.stage.removeprefix("eval-"): {
            mode: {key: body[key] for key in ("accuracy", "low", "high", "n")} for mode, body in modes.items()
        }
    }


def _samples(manifest: Manifest) -> dict[str, Any]:
    if "samples.json" not in manifest.artifacts:
        return {}
    body = json.loads(manifest.file("samples.json").read_text(encoding="utf-8"))
    beside = body.get("beside", {}).get("name", "")
    heard = []
    for entry in body["samples"]:
        if entry["kind"] == "transcribe":
            other = {beside: entry["beside"]["text"]} if beside else {}
            heard.append({"reference": entry["reference"], "text": entry["text"], "beside": other})
    return {"heard": heard}


_DESCRIBERS = {
    "lst.audio/1": _audio,
    "lst.units/1": _units,
    "lst.aligned/1": _aligned,
    "lst.text/1": _text,
    "lst.pairs/1": _pairs,
    "lst.model/1": _model,
    "lst.eval/1": _eval,
    "lst.waves/1": _samples,
}


def _number(value: float) -> str:
    return f"{value:,}"


def _reasons(value: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in value.items()) or "none"


def _from_to(value: Mapping[str, float]) -> str:
    text = f"{value['first_loss']:.2f} to {value['train_loss']:.2f}" if "train_loss" in value else "unknown"
    return text + (f", held out {value['valid_loss']:.2f}" if "valid_loss" in value else "") + " nats per token"


def _bits(value: Mapping[str, float]) -> str:
    return ", ".join(f"{number:.2f} {name}" for name, number in value.items())


def _totals(value: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {number:.4g}" for name, number in value.items())


def _accuracies(value: Mapping[str, Mapping[str, float]]) -> str:
    return ", ".join(
        f"{mode.upper()} {body['accuracy']:.0%} [{body['low']:.0%}, {body['high']:.0%}]" for mode, body in value.items()
    ).replace("-", "→")


def _alignment(value: Mapping[str, Any]) -> str:
    parts = [f"{value['wrong_rejected']:.0%} of wrong transcripts rejected"]
    for side in ("starts", "ends"):
        if f"{side}_within_60_ms" in value:
            share = value[f"{side}_within_60_ms"]
            parts.append(f"{share:.0%} of {side} within 60 ms of {value['other']}'s")
    return ", ".join(parts)


def _heard(value: list[Mapping[str, Any]]) -> str:
    lines = []
    for item in value:
        others = "".join(f" ({name}: {text!r})" for name, text in item["beside"].items())
        lines.append(f"{item['text']!r}{others} for {item['reference']!r}")
    return "; ".join(lines)


def _paths(value: list[str]) -> str:
    return ", ".join(value) if len(value) <= MANY else f"{len(value)}, in {Path(value[0]).parent}"


_LABELS = (
    ("hours", "hours of speech", _number),
    ("utterances", "utterances", _number),
    ("rejected", "recordings rejected", _reasons),
    ("units", "units", _number),
    ("words_aligned", "words aligned", _number),
    ("not_aligned", "utterances not aligned", _reasons),
    ("alignment", "alignment checked", _alignment),
    ("units_per_word", "units per word", _number),
    ("text_tokens", "text tokens", _number),
    ("parameters", "parameters", _number),
    ("patches", "speech patches trained on", _number),
    ("units_per_patch", "units per patch", _number),
    ("pretrain_loss", "pretraining loss", _from_to),
    ("finetune-asr_loss", "ASR fine-tuning loss", _from_to),
    ("finetune-tts_loss", "TTS fine-tuning loss", _from_to),
    ("held_out", "held out", _bits),
    ("storycloze", "story cloze, 95% interval", _accuracies),
    ("words", "embeddings of words", _totals),
    ("asr", "recognition", _totals),
    ("tts", "synthesis", _totals),
    ("heard", "held-out recordings heard as", _heard),
    ("minutes", "minutes of work", _number),
    ("peak_memory_mb", "peak memory, MiB", _number),
    ("models", "models", lambda value: _paths(list(value.values()))),
    ("wavs", "audio", _paths),
    ("report", "report", str),
)
