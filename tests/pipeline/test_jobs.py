"""Stages made at once, each in a process of its own: the same results, and what fails stops only what needs it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lst.errors import LstError
from lst.manifest import Progress
from lst.pipeline import kinds
from lst.pipeline.recipe import load_recipe
from lst.pipeline.run import StageRun, read_runs, run_recipe
from tests.pipeline import toy

RECIPE = """
name: toy
stages:
  one: {stage: read, source: numbers}
  two: {stage: read, source: numbers, scale: 2}
  three: {stage: read, source: numbers, scale: 3}
  broken: {stage: add, inputs: {left: one, right: two}, fail: true}
  after: {stage: add, inputs: {left: broken, right: two}}
  sum: {stage: add, inputs: {left: one, right: three}}
  all: {stage: add, inputs: {left: sum, right: two}}
"""


@pytest.fixture(autouse=True)
def toy_kinds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kinds, "KINDS", toy.TOY_KINDS)
    (tmp_path / "numbers").write_text("1 2")
    (tmp_path / "toy.yaml").write_text(RECIPE)


@contextlib.contextmanager
def silent(title: str) -> Iterator[Progress]:
    yield lambda done, total, unit: None


def test_the_same_is_made_at_once_as_in_order(tmp_path: Path) -> None:
    recipe = load_recipe(tmp_path / "toy.yaml")
    heard: list[StageRun] = []
    together = run_recipe(recipe, tmp_path / "a", only=["all"], jobs=3, open_progress=silent, on_made=heard.append)
    one_by_one = run_recipe(recipe, tmp_path / "b", only=["all"], open_progress=silent)
    assert [run.name for run in together] == [run.name for run in one_by_one] == ["one", "two", "three", "sum", "all"]
    assert [run.manifest.id for run in together] == [run.manifest.id for run in one_by_one]
    assert {run.name: run.manifest.totals for run in together}["all"] == {"value": 18}
    assert {run.name for run in heard} == {"one", "two", "three", "sum", "all"}
    assert list(read_runs(tmp_path / "a")["stages"]).index("all") == 4
    again = run_recipe(recipe, tmp_path / "a", only=["all"], jobs=3, open_progress=silent)
    assert not any(run.computed for run in again)


def test_a_stage_that_fails_stops_only_those_that_need_it(tmp_path: Path) -> None:
    recipe = load_recipe(tmp_path / "toy.yaml")
    with pytest.raises(LstError, match=r"broken failed: It failed\."):
        run_recipe(recipe, tmp_path / "out", jobs=2, open_progress=silent)
    assert set(read_runs(tmp_path / "out")["stages"]) == {"one", "two", "three", "sum", "all"}
    mended = load_recipe(tmp_path / "toy.yaml", ["broken.fail=false"])
    runs = run_recipe(mended, tmp_path / "out", jobs=2, open_progress=silent)
    assert {run.name for run in runs if run.computed} == {"broken", "after"}


def test_a_process_that_dies_is_named(tmp_path: Path) -> None:
    recipe = load_recipe(tmp_path / "toy.yaml", ["sum.offset=-9"])  # the toy kills its own process
    with pytest.raises(LstError, match=r"sum failed: Its process was killed \(signal 9\)"):
        run_recipe(recipe, tmp_path / "out", only=["all"], jobs=2, open_progress=silent)


def test_a_stop_signal_ends_all_of_them_and_the_next_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(
        RECIPE.replace(
            "two: {stage: read, source: numbers, scale: 2}", "two: {stage: read, source: numbers, scale: 2000}"
        )
    )
    script = (
        "import sys; from pathlib import Path; from lst.pipeline import kinds; from tests.pipeline import toy\n"
        "kinds.KINDS = toy.TOY_KINDS\n"
        "from lst.errors import LstError; from tests.pipeline.test_jobs import silent\n"
        "from lst.pipeline.recipe import load_recipe; from lst.pipeline.run import run_recipe\n"
        "root = Path(sys.argv[1])\n"
        "def made(run): print(run.name, flush=True)\n"
        "recipe = load_recipe(root / 'toy.yaml')\n"
        "try: run_recipe(recipe, root / 'out', only=['all'], jobs=2, open_progress=silent, on_made=made)\n"
        "except LstError as error: sys.exit(error.exit_code)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    seen = [process.stdout.readline().strip() for _ in range(3)]  # all but `two`, which sleeps, and what needs it
    assert set(seen) == {"one", "three", "sum"}
    os.kill(process.pid, signal.SIGTERM)
    begin = time.monotonic()
    assert process.wait(60) == 143
    assert time.monotonic() - begin < 50
    process.stdout.close()
    body = json.loads((tmp_path / "out" / "run.json").read_text())
    assert set(body["stages"]) == {"one", "three", "sum"}
