"""Recipes in short: included files, shared settings, and runs that differ in a little."""

import textwrap
from pathlib import Path
from typing import Any

import pytest

from lst.errors import LstError
from lst.pipeline import kinds
from lst.pipeline.expand import expand, merged
from lst.pipeline.recipe import load_recipe, read_yaml
from tests.pipeline import toy


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def stages_of(path: Path) -> dict[str, Any]:
    stages: dict[str, Any] = expand(path, read_yaml, lambda *_: None)["stages"]
    return stages


def test_runs_write_out_every_arm_and_seed(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.yaml",
        """
        settings:
          train: {stage: pretrain, optimizer: {lr: 1.0, clip: 2.0}, batch: {rows: 4}}
        runs:
          seeds: [3, 4]
          arms:
            base: {patching: {mode: none}}
            fast: {optimizer: {lr: 9.0}}
          stages:
            "{run}": {use: train}
            "{run}-losses": {stage: eval-losses, inputs: {model: "{run}"}}
        """,
    )
    stages = stages_of(path)
    assert list(stages) == [
        f"{arm}-{seed}{end}" for arm in ("base", "fast") for seed in (3, 4) for end in ("", "-losses")
    ]
    train = {"stage": "pretrain", "batch": {"rows": 4}}
    clip = {"clip": 2.0}
    assert stages["base-4"] == train | {"optimizer": {"lr": 1.0} | clip, "patching": {"mode": "none"}, "seed": 4}
    assert stages["fast-3"] == train | {"optimizer": {"lr": 9.0} | clip, "seed": 3}
    assert stages["fast-3-losses"] == {"stage": "eval-losses", "inputs": {"model": "fast-3"}}


def test_arms_without_seeds_are_called_by_their_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", 'runs: {arms: {x: null, y: {scale: 2}}, stages: {"{run}": {stage: read}}}')
    assert stages_of(path) == {"x": {"stage": "read"}, "y": {"stage": "read", "scale": 2}}


def test_a_block_may_build_on_settings_and_its_stages_on_those_named_by_the_run(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.yaml",
        """
        settings:
          a: {x: 1}
          b: {x: 2, w: 1}
          long: {y: 10}
          short: {y: 1}
          block: {stages: {"{run}": {use: long}, "{run}-sweep": {use: [short, "{run}"], w: 5}}}
          small: {use: block, stages: {"{run}": {use: short}}}
        runs: {use: small, arms: {a: {use: a}, b: {use: b}}}
        """,
    )
    assert stages_of(path) == {
        "a": {"x": 1, "y": 1},
        "a-sweep": {"x": 1, "y": 1, "w": 5},
        "b": {"x": 2, "y": 1, "w": 1},
        "b-sweep": {"x": 2, "y": 1, "w": 5},
    }


def test_settings_build_on_each_other_and_come_along_with_an_included_file(tmp_path: Path) -> None:
    write(tmp_path / "data" / "d.yaml", "settings: {a: {x: 1, y: 1}}\nstages: {one: {stage: read, source: n.txt}}")
    path = write(
        tmp_path / "main.yaml",
        """
        include: [data/d.yaml]
        settings: {b: {use: a, y: 2}}
        stages: {two: {use: [a, b], z: 3}}
        """,
    )
    assert stages_of(path) == {
        "one": {"stage": "read", "source": "data/n.txt"},
        "two": {"x": 1, "y": 2, "z": 3},
    }


@pytest.mark.parametrize("kind", ["stage: add, ", ""])
def test_paths_of_an_included_file_are_relative_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(kinds, "KINDS", toy.TOY_KINDS)
    write(
        tmp_path / "data" / "d.yaml",
        f"""
        settings: {{adds: {{{kind}inputs: {{left: one, right: one}}, extra: models/e}}}}
        stages:
          one: {{stage: read, source: 2024}}
          theirs: {{use: adds, stage: add}}
        """,
    )
    main = write(
        tmp_path / "main.yaml",
        """
        include: [data/d.yaml]
        stages:
          ours: {use: adds, stage: add}
          own: {use: adds, stage: add, extra: e}
          far: {use: adds, stage: add, extra: /models/e}
        """,
    )
    stages = load_recipe(main).stages
    assert stages["one"].source == tmp_path / "data" / "2024"
    found = {name: str(stages[name].config.extra) for name in ("theirs", "ours", "own", "far")}  # type: ignore[attr-defined]
    theirs = str(tmp_path / "data" / "models" / "e")
    assert found == {"theirs": theirs, "ours": theirs, "own": str(tmp_path / "e"), "far": "/models/e"}


def test_an_included_recipe_runs_as_if_it_stood_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "KINDS", toy.TOY_KINDS)
    write(
        tmp_path / "data" / "d.yaml",
        """
        seed: 1
        stages:
          one: {stage: read, source: n.txt}
          add: {inputs: {left: one, right: one}, extra: models/e}
        """,
    )
    main = write(
        tmp_path / "main.yaml",
        """
        seed: 7
        include: [data/d.yaml]
        runs: {arms: {sum: {offset: 1}}, stages: {"{run}": {stage: add, inputs: {left: one, right: one}}}}
        """,
    )
    recipe = load_recipe(main, ["sum.inner.rate=2"])
    assert recipe.stages["one"].source == tmp_path / "data" / "n.txt"
    assert recipe.stages["add"].config.extra == tmp_path / "data" / "models" / "e"  # type: ignore[attr-defined]
    assert recipe.stages["sum"].config.as_json() == {"offset": 1, "seed": 7, "fail": False, "inner": {"rate": 2.0}}


def test_a_stage_may_stand_in_two_files_if_it_is_the_same(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "stages: {one: {stage: read, source: n}}")
    write(tmp_path / "b.yaml", "include: a.yaml\nstages: {two: {stage: read, source: n}}")
    path = write(tmp_path / "both.yaml", "include: [a.yaml, b.yaml]\nstages: {two: {source: n, stage: read}}")
    assert list(stages_of(path)) == ["one", "two"]
    write(tmp_path / "both.yaml", "include: [a.yaml, b.yaml]\nstages: {two: {source: other, stage: read}}")
    with pytest.raises(LstError, match=r"both.yaml: stages: the stage 'two' is there already, with other settings"):
        stages_of(path)


def test_merging_replaces_what_is_no_mapping() -> None:
    assert merged({"a": {"b": 1, "c": [1]}, "d": 1}, {"a": {"c": [2]}, "d": {"e": 1}}) == {
        "a": {"b": 1, "c": [2]},
        "d": {"e": 1},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages: {a: {use: gone}}\nsettings: {here: {}}", "stages.a.use: there are no settings called 'gone'"),
        ("settings: {a: {use: b}, b: {use: a}}\nstages: {s: {use: a}}", "no settings called 'a'"),
        ("include: wrong.yaml\nstages: {}", "it includes itself"),
        ("runs: {arms: {a: {}}, stages: {fixed: {}}}", r"every name must hold \{run\}"),
        ('runs: {arms: {a: {}}, stages: {"{run}": {}}, seed: [1]}', "runs.seed: unknown key"),
        ('runs: [{arms: {}, stages: {"{run}": {}}}]', r"runs\[0\]: arms and stages are both needed"),
        ("stages: [a]", "stages: a mapping is needed here, not list"),
        ("seeds: 1\nstages: {a: {stage: read}}", "unknown key 'seeds'"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LstError, match=message):
        load_recipe(write(tmp_path / "wrong.yaml", text))
