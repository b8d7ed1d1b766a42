"""The finished runs of `recipes/paper`: what each model cost, where its held-out losses ended, and its scores.

Only manifests, `metrics.jsonl`, `train.log` and results are read: weights need not be there.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lst.manifest import Manifest, load_manifest
from lst.manifest.manifest import MANIFEST_FILE
from lst.pipeline.recipe import load_recipe
from lst.pipeline.run import read_runs
from lst.pipeline.summary import stage_manifests

RECIPE = Path(__file__).with_name("all.yaml")
BENCHMARKS = ("topic-storycloze", "storycloze", "spoken-word", "grammar")
LOSSES = {
    "speech": ("speech", "speech_bits_per_second"),
    "text": ("text", "text_bits_per_token"),
    "interleaved_speech": ("interleaved", "speech_bits_per_second"),
    "interleaved_text": ("interleaved", "text_bits_per_token"),
}
"""Held out: S->S, T->T, and both modalities of interleaved utterances, by validation set and key."""
LABELS = {
    "speech": "S→S bits/s",
    "text": "T→T bits/token",
    "interleaved_speech": "interleaved bits/s",
    "interleaved_text": "interleaved bits/token",
}
COSTS = ("steps", "flops", "global_units", "units", "text_tokens", "minutes", "training_minutes")
"""Counted by the program but for `minutes` (the stage's, validation and start included) and `training_minutes`."""
TIERS = ("", "quarter", "first", "data", "sweep", "size")
_NAME = re.compile(r"(?:(quarter|data|first|sweep|size)-)?(.+?)(?:-(\d+))?$")
_DEVICE = re.compile(r"fairseq2 - Device - (?:.*?\bName: ([^|]+?) *(?:\||$)|(CPU))", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """A pre-trained model: `losses` at the end by the names of `LOSSES`, `costs` by those of `COSTS`."""

    name: str
    tier: str
    arm: str
    seed: int
    lr: float
    parameters: int
    losses: dict[str, float]
    costs: dict[str, float]
    curve: list[dict[str, float]]
    """The validations, by step, flops, global_units and the names of `LOSSES`."""
    loss: float | None = None
    """Nats per target over all that is held out: what learning rates of one arm are compared by."""
    device: str = ""
    """As the log of the training names it; empty if it does not."""
    mfu: float | None = None
    """FLOPs of the training over what the device could have done; known for some devices."""
    patch_length: float | None = None
    """Units per patch over the whole training."""
    mixed: float = 1 / 3
    """Interleaved utterances' share of the tokens, as the mixture asks for it; the rest is text."""
    scores: dict[str, Manifest] = field(default_factory=dict)
    """`lst.eval/1` by benchmark."""


@dataclass(frozen=True)
class Found:
    """All that was made, and all that the recipe asks for."""

    runs: list[Run]
    stages: dict[str, Manifest]
    wanted: list[str]

    def arm(self, arm: str, tier: str = "") -> list[Run]:
        """The seeds of an arm, in order."""
        return sorted((run for run in self.runs if (run.arm, run.tier) == (arm, tier)), key=lambda run: run.seed)

    def pairs(self, a: str, b: str, tier: str = "") -> list[tuple[Run, Run]]:
        """Runs of two arms with the same seed: they read the same rows in the same order."""
        others = {run.seed: run for run in self.arm(b, tier)}
        return [(run, others[run.seed]) for run in self.arm(a, tier) if run.seed in others]

    def summary(self, stage: str) -> dict[str, Any] | None:
        """The summary of a stage that measured something; None if it was not run."""
        if stage not in self.stages:
            return None
        body: dict[str, Any] = json.loads(self.stages[stage].file("summary.json").read_text(encoding="utf-8"))
        return body


def read(directory: Path) -> Found:
    """The finished stages below a run's directory. What came with lst as it is counts as no stage."""
    wanted = [name for name, node in load_recipe(RECIPE).stages.items() if node.kind_name != "made"]
    # Beside them there may be others of this corpus, such as those of the model in the box.
    made = stage_manifests(directory) | _copied(directory)
    stages = {name: made[name] for name in [*read_runs(directory)["stages"]] if name in made and name in wanted}
    seconds = {name: entry["seconds"] for name, entry in read_runs(directory)["stages"].items()}
    runs = [_run(name, manifest, seconds[name]) for name, manifest in stages.items() if manifest.stage == "pretrain"]
    for run in runs:
        for benchmark in BENCHMARKS:
            if f"{run.name}-{benchmark}" in stages:
                run.scores[benchmark] = stages[f"{run.name}-{benchmark}"]
    return Found(runs, stages, wanted)


def _copied(directory: Path) -> dict[str, Manifest]:
    """Stages that lie in the run's directory although they were somewhere else when it was made on another machine."""
    entries = read_runs(directory)["stages"].items()
    return {
        name: load_manifest(directory / name)
        for name, entry in entries
        if "path" in entry and (directory / name / MANIFEST_FILE).is_file()
    }


def _run(name: str, manifest: Manifest, seconds: float) -> Run:
    lines = [json.loads(line) for line in manifest.file("metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    # A run that was stopped goes on from its last checkpoint: of a step that was made twice the second counts.
    train = {line["step"]: line for line in lines if line["split"] == "train"}
    training = sum(line.get("seconds", 0.0) for line in train.values())
    totals = manifest.totals
    named = _NAME.fullmatch(name)
    assert named is not None
    arm = named[2]
    if named[1] == "sweep":
        arm = name.removeprefix("sweep-").rsplit("-", 2)[0]  # ARM-2e-3: the rate is in the settings
    curve = list(_curve(lines))
    last = curve[-1] if curve else {}
    patches = totals.get("speech_patches")
    return Run(
        name=name,
        tier=named[1] or "",
        arm=arm,
        seed=int(manifest.config["seed"]),
        lr=float(manifest.config["optimizer"]["lr"]),
        parameters=int(totals["parameters"]),
        losses={key: last[key] for key in LOSSES if key in last},
        costs={key: float(totals.get(key, 0)) for key in COSTS[:-2]}
        | {"minutes": round(seconds / 60, 2), "training_minutes": round(training / 60, 2)},
        curve=curve,
        loss=next((float(line["loss"]) for line in reversed(lines) if line["split"] == "valid"), None),
        device=_device(manifest),
        mfu=_mfu(list(train.values())),
        patch_length=totals["units"] / patches if patches else None,
        mixed=manifest.config["mixture"]["speech"] / sum(manifest.config["mixture"].values()),
    )


def _curve(lines: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, float]]:
    """The validations, with what had been spent by then."""
    cost = {"flops": 0.0, "global_units": 0.0}
    for line in sorted(lines, key=lambda line: (line["step"], line["split"] == "valid")):
        if line["split"] == "train":
            cost = {key: line["total"][key] for key in cost}
            continue
        values = {key: line.get("sets", {}).get(part, {}).get(value) for key, (part, value) in LOSSES.items()}
        yield {"step": line["step"], **cost, **{key: value for key, value in values.items() if value is not None}}


def _device(manifest: Manifest) -> str:
    if "train.log" not in manifest.artifacts:
        return ""
    found = _DEVICE.search(manifest.file("train.log").read_text(encoding="utf-8", errors="replace"))
    return (found[1] or found[2]).strip() if found else ""


def _mfu(train: Sequence[Mapping[str, Any]]) -> float | None:
    """Over all of the training: each line's share weighted with its time."""
    timed = [(line["mfu"], line["seconds"]) for line in train if "mfu" in line]
    total = sum(seconds for _, seconds in timed)
    return sum(mfu * seconds for mfu, seconds in timed) / total if total else None


def scores_of(manifest: Manifest) -> dict[str, Any]:
    """{mode: {n, headline, accuracy, low, high, variants}} of a benchmark's result."""
    modes: dict[str, Any] = json.loads(manifest.file("summary.json").read_text(encoding="utf-8"))["modes"]
    return modes
