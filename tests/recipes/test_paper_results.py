"""Results of the paper in miniature: tables and verdicts come from finished runs, and say what was not run."""

import csv
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lst.manifest import DirectoryResult, Manifest, StageSpec, build_directory, write_json
from lst.train.stage import PretrainConfig
from tests.data.synthetic import make_text

PAPER = Path(__file__).parents[2] / "recipes" / "paper"


@pytest.fixture(scope="module")
def results() -> Any:
    sys.path.insert(0, str(PAPER))
    return importlib.import_module("results")


def make_model(out: Path, text: Manifest, mode: str, seed: int, *, bits: float, lr: float = 4e-3) -> Manifest:
    """A model whose held-out speech ends at so many bits per second."""
    config = PretrainConfig.model_validate({"patching": {"mode": mode}, "seed": seed, "optimizer": {"lr": lr}})
    lines: list[dict[str, Any]] = []
    for step in (10, 20):
        total = {"flops": 1e9 * step, "global_units": 100.0 * step}
        lines.append({"step": step, "split": "train", "loss": 5.0, "total": total})
        sets = {"speech": {"speech_bits_per_second": bits + 20 - step}, "text": {"text_bits_per_token": 9.0}}
        lines.append({"step": step, "split": "valid", "loss": bits / 10, "sets": sets})

    def make(directory: Path) -> DirectoryResult:
        (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        totals = {"parameters": 1000, "steps": 20, "flops": 2e10, "units": 256, "text_tokens": 744, "global_units": 810}
        return DirectoryResult(["metrics.jsonl"], totals)

    return build_directory(out, StageSpec("lst.model/1", "pretrain", 1, config.as_json(), {"text": text}), make)


def make_run(root: Path, models: dict[str, tuple[str, int, float]], **rates: float) -> Path:
    text = make_text(root / "text", 20)
    run = root / "run"
    stages = {}
    for name, (mode, seed, bits) in models.items():
        made = make_model(run / name, text, mode, seed, bits=bits, lr=rates.get(name.replace("-", "_"), 4e-3))
        stages[name] = {"id": made.id, "seconds": 90.0, "peak_mb": 1}
    write_json(run / "run.json", {"recipe": "paper", "stages": stages})
    return run


THREE = {
    **{f"base-{seed}": ("none", seed, 100.0 + seed) for seed in range(3)},
    **{f"static-{seed}": ("static", seed, 90.0 + seed) for seed in range(3)},
    **{f"curriculum-{seed}": ("curriculum", seed, 100.5 + seed) for seed in range(3)},
    "quarter-static-0": ("static", 0, 95.0),
    "quarter-static-6-0": ("static", 0, 105.0),
}


def test_the_page_has_numbers_of_what_was_run_and_says_what_was_not(results: Any, tmp_path: Path) -> None:
    run = make_run(tmp_path, THREE)
    results.main(run, tmp_path / "docs")
    page = (tmp_path / "docs" / "results.md").read_text()
    rows = {line.split(" | ")[1]: line for line in page.splitlines() if line.startswith("| Table")}
    assert (
        "**reproduced** | S→S bits/s: static 91.000, base 101.000; difference -10.000"
        in (rows["static patches of 4 beat base at equal FLOPs, speech loss"])
    )
    assert "**not decidable**" in rows["the curriculum beats base at equal FLOPs, speech loss"]
    assert "**not run** | not scored" in rows["static beats base, topic story cloze S→S"]
    assert "**reproduced**" in rows["patches of 4 beat patches of 6, speech loss"]  # by the seeds of the first tier
    assert "**reproduced** | 0.810 global units per token (paper 0.81)" in rows["the token accounting"]
    assert "| base | 3 | 0.004 |" in page
    assert "101.000 ± 1.000" in page
    assert "## Runs: sizes\n\nNot run." in page
    assert "`data-base-0`" in page.split("## Not run")[1]
    assert "`base-0`" not in page.split("## Not run")[1]
    with (tmp_path / "docs" / "results" / "runs.csv").open() as file:
        table = {row["run"]: row for row in csv.DictReader(file)}
    assert (table["static-2"]["speech"], table["static-2"]["minutes"]) == ("92", "1.5")
    assert (tmp_path / "docs" / "results" / "losses.png").stat().st_size > 1000


def test_losses_that_go_the_other_way_are_not_reproduced(results: Any, tmp_path: Path) -> None:
    worse = {**THREE, **{f"static-{seed}": ("static", seed, 120.0 + seed) for seed in range(3)}}
    found = results.read(make_run(tmp_path, worse))
    claims = importlib.import_module("claims")
    assert claims.lower_loss("speech", "static", "base")(found).word == claims.NOT_REPRODUCED
    one = results.Found([run for run in found.runs if run.seed == 0], found.stages, found.wanted)
    assert claims.lower_loss("speech", "static", "base")(one).word == claims.UNDECIDED


def test_where_the_full_budget_was_not_run_a_tenth_of_it_speaks_and_says_so(results: Any, tmp_path: Path) -> None:
    first = {f"first-{name}": model for name, model in THREE.items() if not name.startswith("quarter")}
    found = results.read(make_run(tmp_path, first))
    claims = importlib.import_module("claims")
    verdict = claims.lower_loss("speech", "static", "base")(found)
    assert verdict.word == claims.REPRODUCED
    assert "(at a tenth of the budget); difference -10.000" in verdict.numbers
    assert claims.lower_loss("speech", "static", "base", "quarter", only=True)(found).word == claims.NOT_RUN
    both = results.read(make_run(tmp_path / "both", first | THREE))
    assert "tenth" not in claims.lower_loss("speech", "static", "base")(both).numbers


def test_the_sweep_says_which_rate_is_best(results: Any, tmp_path: Path) -> None:
    models = {"sweep-base-2e-3": ("none", 0, 99.0), "sweep-base-16e-3": ("none", 0, 80.0)}
    found = results.read(make_run(tmp_path, models, sweep_base_2e_3=2e-3, sweep_base_16e_3=1.6e-2))
    assert {(run.tier, run.arm, run.lr) for run in found.runs} == {("sweep", "base", 2e-3), ("sweep", "base", 1.6e-2)}
    assert "| base | 0.002: 9.9000, 0.016: 8.0000 | 0.016 | 0.004, **not the best** |" in results.rates_table(found)


def test_without_runs_nothing_is_claimed(results: Any, tmp_path: Path) -> None:
    results.main(tmp_path, tmp_path / "docs")
    page = (tmp_path / "docs" / "results.md").read_text()
    verdicts = [line.split(" | ")[2] for line in page.split("## Learning")[0].splitlines() if line.startswith("| ")][2:]
    assert set(verdicts) == {"**not run**"}
