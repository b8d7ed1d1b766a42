"""Results of the paper in miniature: tables and verdicts come from finished runs, and say what was not run."""

import base64
import csv
from html import escape
from pathlib import Path
from typing import Any

import pytest

from tests.recipes.paper_runs import WEIGHTS, Runs, items, module

results = module("results")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Runs, Path]:
    """Three seeds of three arms at the full budget, base and static scored, and the page of it."""
    root = tmp_path_factory.mktemp("paper")
    runs = Runs(root)
    runs.models("base", (100.0, 101.0, 102.0))
    runs.models("static", (90.0, 91.1, 91.9), mode="static")
    runs.models("curriculum", (100.5, 100.5, 102.5), mode="curriculum")
    for seed in range(3):
        for arm, share in (("base", 0.6), ("static", 0.7)):
            runs.scores(f"{arm}-{seed}", items(300, share, seed=seed), pmi=items(300, share + 0.1, seed=seed))
    runs.found()
    results.main(runs.path, root / "docs")
    return runs, root / "docs"


def test_the_page_has_numbers_of_what_was_run_and_says_what_was_not(made: tuple[Runs, Path]) -> None:
    page = (made[1] / "results.md").read_text()
    rows = {
        line.split(" | ")[1]: line
        for line in reversed(page.splitlines())  # of a claim that several tables make the first counts
        if line.startswith(("| Table", "| Figure"))
    }
    assert "**reproduced** | S→S bits/s: static 91.000, base 101.000" in rows["static ends below base, speech loss"]
    assert "**not decidable**" in rows["curriculum ends below base, speech loss"]
    assert "**not run** | not scored" in rows["curriculum beats base, topic story cloze S→S"]
    assert "**reproduced**" in rows["static beats base, topic story cloze S→S"]
    assert "by PMI: static 80.0%, base 70.0%" in rows["static beats base, topic story cloze S→S"]
    assert "**reproduced** | static-0: 0.810 global units" in next(row for row in rows.values() if "Table 13" in row)
    assert "## Figure 4, sizes\n\nNot run." in page
    assert "`data-base-0`" in page.split("## Not run")[1]
    assert "`base-0`" not in page.split("## Not run")[1]


def test_tables_have_seeds_intervals_costs_and_the_device(made: tuple[Runs, Path]) -> None:
    page = (made[1] / "results.md").read_text()
    equal = page.split("## Table 3, equal FLOPs\n")[1].split("\n## ")[0]
    assert "| base | 3 | 101.000 ± 1.000 |" in equal
    assert "| static | -10.000 ± 0.100 (p = 3.3e-05) |" in equal
    assert "Not run: base-matched, static-direct." in equal
    (base,) = [line for line in equal.splitlines() if line.startswith("| base | 3 | 60.0")]
    mean, pmi = base.split(" | ")[2:4]
    low, high = (float(value) for value in mean.split("[")[1].rstrip("]").split(", "))
    assert mean.startswith("60.0 ± 0.0 [")
    assert 53 < low < 58 < 62 < high < 67
    assert pmi.startswith("70.0 ± 0.0 [")
    assert "| static | 0.00 M | 0.0004 | 20 | 2e+10 | 810 | 256 | 744 | 4.00 | 1.0 | 1.00% | NVIDIA H200 |" in equal


def test_csv_and_figures_hold_every_run_and_need_no_weights(made: tuple[Runs, Path]) -> None:
    runs, docs = made
    assert not list(runs.path.glob(f"*/{WEIGHTS}"))
    with (docs / "results" / "runs.csv").open() as file:
        table = {row["run"]: row for row in csv.DictReader(file)}
    assert (table["static-2"]["speech"], table["static-2"]["minutes"]) == ("91.9", "1.5")
    assert (table["static-2"]["training_minutes"], table["static-2"]["device"]) == ("1", "NVIDIA H200")
    with (docs / "results" / "claims.csv").open() as file:
        claims = list(csv.DictReader(file))
    assert {row["verdict"] for row in claims} == {"reproduced", "not decidable", "not run"}
    for name in ("bits.png", "losses.png"):
        assert (docs / "results" / name).stat().st_size > 1000
        assert f"(results/{name})" in (docs / "results.md").read_text()


def test_the_report_of_the_run_has_the_figures_in_it(made: tuple[Runs, Path]) -> None:
    runs, docs = made
    page = (runs.path / "report.html").read_text()
    drawn = sorted((docs / "results").glob("*.png"))
    assert len(drawn) >= 2
    assert page.count("<img ") == len(drawn)
    for path in drawn:
        assert base64.b64encode(path.read_bytes()).decode() in page, path.name
    assert "Held-out losses during training over FLOPs" in page
    with (docs / "results" / "claims.csv").open() as file:
        for row in csv.DictReader(file):
            assert f"<td>{escape(row['claim'])}</td>" in page


def test_the_sweep_says_which_rate_is_best(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    runs.model("sweep-base-2e-3", 0, 99.0, optimizer={"lr": 2e-3})
    runs.model("sweep-base-16e-3", 0, 80.0, optimizer={"lr": 1.6e-2})
    found = runs.found()
    assert {(run.tier, run.arm, run.lr) for run in found.runs} == {("sweep", "base", 2e-3), ("sweep", "base", 1.6e-2)}
    used = rate_of("base-0")
    note = "" if used == 0.016 else ", **not the best**"
    assert f"| base | 9.9000 | 8.0000 | 0.016 | {used:g}{note} |" in results.tables.rates_table(found)


def rate_of(stage: str) -> float:
    """The rate that the recipe gives a model."""
    config: Any = module("runs").load_recipe(module("runs").RECIPE).stages[stage].config
    return float(config.optimizer.lr)


def test_every_claim_is_about_stages_that_the_recipe_makes() -> None:
    wanted = set(module("runs").load_recipe(module("runs").RECIPE).stages)
    sections = results.tables.SECTIONS
    for about in sections:
        prefix = f"{about.tier}-" if about.tier else ""
        assert {f"{prefix}{arm}-0" for arm in about.arms} <= wanted, about.title


def test_without_runs_nothing_is_claimed(tmp_path: Path) -> None:
    results.main(tmp_path, tmp_path / "docs")
    page = (tmp_path / "docs" / "results.md").read_text()
    lines = page.split("## Claims")[1].split("## Learning")[0].splitlines()
    verdicts = [line.split(" | ")[3] for line in lines if line.startswith("| ")][2:]
    assert set(verdicts) == {"**not run**"}


def test_stages_that_lay_elsewhere_on_another_machine_are_found_beside_the_runs(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    runs.models("base", (100.0,))
    runs.place("base-0", "../data/base-0")
    assert [run.name for run in runs.found().runs] == ["base-0"]
    assert "topic-storycloze" not in runs.found().wanted  # it comes with lst
