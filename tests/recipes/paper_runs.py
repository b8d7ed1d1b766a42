"""Run directories of the paper in miniature with known numbers, as `recipes/paper/results.py` reads them."""

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lst.manifest import DirectoryResult, Manifest, StageSpec, build_directory, write_json
from lst.train.stage import PretrainConfig
from tests.data.synthetic import make_text

PAPER = Path(__file__).parents[2] / "recipes" / "paper"
WEIGHTS = "model.safetensors"
GPU = "2026-11-27 INFO fairseq2 - Device - ID: cuda:0 | Name: NVIDIA H200 | Memory: 139.8 GiB | Number of SMs: 132\n"


def module(name: str) -> Any:
    """A module of recipes/paper."""
    if str(PAPER) not in sys.path:
        sys.path.insert(0, str(PAPER))
    return importlib.import_module(name)


class Runs:
    """A run directory that grows: `model`, `scores`, `stage`; `found` reads it."""

    def __init__(self, root: Path) -> None:
        self.path = root / "run"
        self._text = make_text(root / "text", 20)
        self._stages: dict[str, dict[str, Any]] = {}

    def found(self) -> Any:
        write_json(self.path / "run.json", {"recipe": "paper", "stages": self._stages})
        return module("runs").read(self.path)

    def model(self, name: str, seed: int, bits: float, *, flops: float = 2e10, units: float = 810, **more: Any) -> None:
        """A model whose held-out speech ends at so many bits per second; its weights are gone."""
        mode = more.pop("mode", "none")
        config = PretrainConfig.model_validate({"patching": {"mode": mode}, "seed": seed} | more)
        lines: list[dict[str, Any]] = []
        for share in (0.5, 1.0):
            step = round(20 * share)
            total = {"flops": flops * share, "global_units": units * share}
            train = {"step": step, "split": "train", "loss": 5.0, "total": total, "seconds": 30.0, "mfu": 0.01}
            sets = {
                "speech": {"speech_bits_per_second": bits + 20 - step},
                "text": {"text_bits_per_token": bits / 10},
            }
            lines += [train, {"step": step, "split": "valid", "loss": bits / 10, "sets": sets}]
        totals = {"parameters": 1000, "steps": 20, "flops": flops, "units": 256, "text_tokens": 744}

        def make(directory: Path) -> DirectoryResult:
            (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            (directory / "train.log").write_text(GPU)
            (directory / WEIGHTS).write_text("weights")
            return DirectoryResult(
                ["metrics.jsonl", "train.log", WEIGHTS], totals | {"global_units": units, "speech_patches": 64}
            )

        spec = StageSpec("lst.model/1", "pretrain", 1, config.as_json(), {"text": self._text})
        self._add(name, build_directory(self.path / name, spec, make))
        (self.path / name / WEIGHTS).unlink()

    def models(self, arm: str, bits: Sequence[float], **more: Any) -> None:
        """A seed for each number."""
        for seed, value in enumerate(bits):
            self.model(f"{arm}-{seed}", seed, value, **more)

    def scores(self, model: str, right: Sequence[float], *, pmi: Sequence[float] | None = None) -> None:
        """Topic story cloze, S→S: what each item earned by the headline, and by PMI."""
        earned = {"mean_unit": np.asarray(right, dtype=float)}
        if pmi is not None:
            earned["pmi_mean"] = np.asarray(pmi, dtype=float)
        ids = [f"item-{place}" for place in range(len(right))]
        columns = {"id": ids, "group": ids, "mode": ["s-s"] * len(ids)}
        variants = {
            name: {"accuracy": float(values.mean()), "low": 0.0, "high": 1.0} for name, values in earned.items()
        }
        mode = {"n": len(ids), "chance": 0.5, "headline": "mean_unit", "variants": variants} | variants["mean_unit"]
        summary = {"kind": "topic-storycloze", "bench_id": "bench", "modes": {"s-s": mode}}
        table = pa.table(columns | {f"earned_{name}": values for name, values in earned.items()})
        self.stage(f"{model}-topic-storycloze", "eval-benchmark", summary, {"items.parquet": table})

    def stage(self, name: str, kind: str, summary: Mapping[str, Any], files: Mapping[str, Any]) -> None:
        """A result: `files` are tables, or rows for a JSONL file."""

        def make(directory: Path) -> DirectoryResult:
            (directory / "summary.json").write_text(json.dumps(summary))
            for file, body in files.items():
                if isinstance(body, pa.Table):
                    pq.write_table(body, directory / file)
                else:
                    (directory / file).write_text("".join(json.dumps(row) + "\n" for row in body))
            return DirectoryResult(["summary.json", *files], dict(summary.get("totals", {})))

        spec = StageSpec("lst.eval/1", kind, 1, {"about": name}, {"text": self._text})
        self._add(name, build_directory(self.path / name, spec, make))

    def finetuned(self, name: str, steps: int) -> None:
        """A fine-tuned model, of which only the number of steps counts here."""
        spec = StageSpec("lst.model/1", "finetune", 1, {"budget": {"amount": steps}, "about": name}, {})
        self._add(name, build_directory(self.path / name, spec, lambda directory: DirectoryResult([], {})))

    def place(self, name: str, path: str) -> None:
        """Say that a stage lies somewhere else, as in a run that was made on another machine."""
        self._stages[name]["path"] = path

    def _add(self, name: str, made: Manifest) -> None:
        self._stages[name] = {"id": made.id, "seconds": 90.0, "peak_mb": 1}


def items(count: int, share: float, *, seed: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Credit of items, of which that share is right; the same items are the hard ones for every seed, mostly."""
    difficulty = np.random.default_rng(0).random(count)
    noise = np.random.default_rng(seed + 1).normal(0, 0.05, count)
    order = np.argsort(difficulty + noise)
    credit = np.zeros(count)
    credit[order[: round(share * count)]] = 1.0
    return credit
