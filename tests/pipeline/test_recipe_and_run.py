"""Recipes are checked to the key; a run makes what changed and nothing else, and says why."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from lst.errors import LstError, UsageError
from lst.manifest import Progress, load_manifest
from lst.pipeline import kinds
from lst.pipeline.recipe import load_recipe
from lst.pipeline.run import plan_recipe, read_runs, run_recipe
from lst.pipeline.summary import stage_manifests
from tests.pipeline import toy

RECIPE = """
name: toy
seed: 5
stages:
  sum: {stage: add, inputs: {right: three}}
  one: {stage: read, source: numbers}
  three: {stage: read, source: numbers, scale: 3}
"""


@pytest.fixture(autouse=True)
def toy_kinds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kinds, "KINDS", toy.TOY_KINDS)
    toy.MADE.clear()
    (tmp_path / "numbers").write_text("1 2")
    (tmp_path / "toy.yaml").write_text(RECIPE)


@contextlib.contextmanager
def silent(title: str) -> Iterator[Progress]:
    yield lambda done, total, unit: None


def run(tmp_path: Path, *changes: str, only: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """Run the toy recipe; returns the reasons of the stages that were made."""
    runs = run_recipe(load_recipe(tmp_path / "toy.yaml", changes), tmp_path / "out", only=only, open_progress=silent)
    return {item.name: item.reasons for item in runs if item.computed}


def test_a_run_makes_only_what_changed_and_says_which_key(tmp_path: Path) -> None:
    assert list(run(tmp_path)) == ["one", "three", "sum"]
    assert run(tmp_path) == {}
    assert run(tmp_path, "three.scale=4") == {
        "three": ["scale: 3 -> 4"],
        "sum": ["its input three has changed"],
    }
    assert run(tmp_path, "three.scale=4", "sum.inner.rate=0.5") == {"sum": ["inner.rate: 1.0 -> 0.5"]}
    (tmp_path / "numbers").write_text("1 2 3")
    assert run(tmp_path, "three.scale=4", "sum.inner.rate=0.5")["one"] == ["the source numbers has changed"]
    assert toy.MADE == ["one", "three", "sum", "three", "sum", "sum", "one", "three", "sum"]


def test_the_seed_of_the_recipe_reaches_the_stages_that_have_one(tmp_path: Path) -> None:
    recipe = load_recipe(tmp_path / "toy.yaml")
    assert recipe.stages["sum"].config.seed == 5
    assert load_recipe(tmp_path / "toy.yaml", ["seed=6"]).stages["sum"].config.seed == 6
    assert load_recipe(tmp_path / "toy.yaml", ["sum.seed=7"]).stages["sum"].config.seed == 7


def test_the_plan_is_what_the_run_does_and_writes_nothing(tmp_path: Path) -> None:
    recipe = load_recipe(tmp_path / "toy.yaml")
    states = {state.name: state.state for state in plan_recipe(recipe, tmp_path / "out")}
    assert states == {"one": "new", "three": "new", "sum": "waits"}
    assert not (tmp_path / "out").exists()
    run(tmp_path)
    assert {state.state for state in plan_recipe(recipe, tmp_path / "out")} == {"made"}
    changed = load_recipe(tmp_path / "toy.yaml", ["three.scale=9", "sum.offset=1"])
    plan = {state.name: state for state in plan_recipe(changed, tmp_path / "out")}
    assert plan["one"].state == "made"
    assert plan["three"].reasons == ["scale: 3 -> 9"]
    assert plan["sum"].reasons == ["three comes first", "offset: 0 -> 1"]


def test_what_was_made_elsewhere_is_used_where_it_lies(tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / "other.yaml").write_text(
        "stages: {one: {stage: made, source: out/one}, three: {stage: made, source: out/three}, "
        "sum: {stage: add, inputs: {right: three}, seed: 5}}"
    )
    recipe = load_recipe(tmp_path / "other.yaml")
    assert [state.state for state in plan_recipe(recipe, tmp_path / "again")] == ["made", "made", "new"]
    runs = run_recipe(recipe, tmp_path / "again", open_progress=silent)
    assert [item.name for item in runs if item.computed] == ["sum"]
    assert runs[-1].manifest.id == load_manifest(tmp_path / "out" / "sum").id
    made = stage_manifests(tmp_path / "again")
    assert made["one"].path.resolve() == (tmp_path / "out" / "one").resolve()
    assert not (tmp_path / "again" / "one").exists()
    (tmp_path / "other.yaml").write_text("stages: {one: {stage: made, source: gone}}")
    with pytest.raises(LstError, match="gone"):
        plan_recipe(load_recipe(tmp_path / "other.yaml"), tmp_path / "again")


def test_only_runs_a_stage_and_what_it_needs(tmp_path: Path) -> None:
    assert list(run(tmp_path, only=("three",))) == ["three"]
    with pytest.raises(UsageError, match=r"no stage 'thre'.*'three'"):
        run(tmp_path, only=("thre",))


def test_a_failed_stage_loses_nothing_made_before(tmp_path: Path) -> None:
    with pytest.raises(LstError, match="It failed"):
        run(tmp_path, "sum.fail=true")
    assert set(read_runs(tmp_path / "out")["stages"]) == {"one", "three"}
    assert list(run(tmp_path)) == ["sum"]


def test_a_damaged_stage_is_made_again(tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / "out" / "one" / "manifest.json").write_text("{")
    assert list(run(tmp_path)) == ["one"]


def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    with pytest.raises(LstError, match="not made by lst run"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RECIPE.replace("scale: 3", "scael: 3"), r"toy.yaml: stages\.three\.scael: unknown key\. Did you mean 'scale'"),
        (RECIPE.replace("scale: 3", "scale: much"), r"stages\.three\.scale: .*integer.*'much'"),
        (RECIPE.replace("right: three", "rihgt: three"), r"stages\.sum\.inputs\.rihgt: add has no such input"),
        (RECIPE.replace("right: three", "right: four"), r"stages\.sum\.inputs\.right: the recipe has no stage 'four'"),
        (RECIPE.replace("stage: add", "stage: ad"), r"stages\.sum\.stage: no kind of stage is called 'ad'.*'add'"),
        (RECIPE.replace(", scale: 3", ", scale: 3, scale: 4"), "line 7: 'scale' stands here twice"),
        (RECIPE.replace("source: numbers,", ""), r"stages\.three\.source: the path"),
        (RECIPE.replace("seed: 5", "sede: 5"), "unknown key 'sede'. Did you mean 'seed'"),
        (RECIPE.replace("{right: three}", "{right: three, left: sum}"), "wait for each other"),
        (
            RECIPE.replace("{right: three}", "{right: three, extra: four}"),
            r"inputs\.extra: the recipe has no stage 'four'",
        ),
        (
            RECIPE.replace("{right: three}", "{right: three, extra: one}, extra: x"),
            r"sum\.extra: it stands among the inp",
        ),
        ("[1, 2]", "a mapping"),
        ("a: [", "not valid YAML"),
        ("name: x", "stages: a mapping"),
    ],
)
def test_a_mistake_in_a_recipe_is_named_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "toy.yaml").write_text(text)
    with pytest.raises(LstError, match=message):
        load_recipe(tmp_path / "toy.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("three.scael=1", "Did you mean 'scale'"),
        ("thre.scale=1", "Did you mean 'three'"),
        ("three", "not KEY=VALUE"),
        ("three=1", "three.KEY=VALUE"),
        ("sum.inner.rat=1", r"sum\.inner\.rat: unknown key. Did you mean 'rate'"),
    ],
)
def test_a_mistake_in_an_override_is_named(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(LstError, match=message):
        load_recipe(tmp_path / "toy.yaml", [change])


def test_a_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(LstError, match="does not exist"):
        load_recipe(tmp_path / "none.yaml")


def test_settings_are_repeated_by_yaml_s_own_means(tmp_path: Path) -> None:
    again = RECIPE + "  again: {<<: *three, scale: 4}\n"
    (tmp_path / "toy.yaml").write_text(again.replace("three: {", "three: &three {"))
    stages = load_recipe(tmp_path / "toy.yaml").stages
    assert stages["again"].source == stages["three"].source
    assert (stages["three"].config.scale, stages["again"].config.scale) == (3, 4)  # type: ignore[attr-defined]
    (tmp_path / "toy.yaml").write_text(again.replace("three: {", "three: &three {") + "  again: {stage: read}\n")
    with pytest.raises(LstError, match="'again' stands here twice"):
        load_recipe(tmp_path / "toy.yaml")


def test_a_setting_that_is_a_path_is_relative_to_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    shipped = (Path(__file__).parents[2] / "recipes" / "demo.yaml").read_text(encoding="utf-8")
    (tmp_path / "warm.yaml").write_text(shipped.replace("  pretrain:\n", "  pretrain:\n    warm_start: text/model\n"))
    config = load_recipe(tmp_path / "warm.yaml").stages["pretrain"].config
    assert config.warm_start == tmp_path / "text/model"  # type: ignore[attr-defined]
    assert "warm_start" not in config.as_json()


def test_a_model_that_a_setting_names_comes_first(tmp_path: Path) -> None:
    late = RECIPE.replace("{right: three}", "{right: three, extra: four}")
    late += "  four: {stage: read, source: numbers, scale: 4}\n"
    (tmp_path / "toy.yaml").write_text(late)
    recipe = load_recipe(tmp_path / "toy.yaml")
    assert recipe.needed_for(["sum"])[-1] == "sum"
    assert set(recipe.needed_for(["sum"])) == {"one", "three", "four", "sum"}
    (waiting,) = (state for state in plan_recipe(recipe, tmp_path / "out") if state.name == "sum")
    assert waiting.reasons == ["four comes first", "one comes first", "three comes first"]
    assert list(run(tmp_path)) == ["one", "three", "four", "sum"]
    assert load_manifest(tmp_path / "out" / "sum").totals["value"] == 3 + 9 + 12
    assert run(tmp_path) == {}
    assert run(tmp_path, "four.scale=5") == {"four": ["scale: 4 -> 5"], "sum": ["its input four has changed"]}


def test_a_model_may_be_a_path_as_well(tmp_path: Path) -> None:
    run(tmp_path, only=("one",))
    (tmp_path / "more.yaml").write_text(RECIPE.replace("{right: three}", "{right: three}, extra: out/one"))
    made = run_recipe(load_recipe(tmp_path / "more.yaml"), tmp_path / "more", open_progress=silent)
    assert {item.name: item.manifest.totals["value"] for item in made}["sum"] == 3 + 9 + 3


def test_an_override_changes_one_stage_of_those_that_share_settings(tmp_path: Path) -> None:
    shared = RECIPE + "settings: {sums: {stage: add, inputs: {right: three}, inner: {rate: 2}}}\n"
    shared = shared.replace("stages:", "stages:\n  more: {use: sums}\n  less: {use: sums}")
    (tmp_path / "toy.yaml").write_text(shared)
    recipe = load_recipe(tmp_path / "toy.yaml", ["more.inner.rate=3", "more.inputs.left=three"])
    rates = {name: recipe.stages[name].config.inner.rate for name in ("more", "less")}  # type: ignore[attr-defined]
    assert rates == {"more": 3, "less": 2}
    assert [recipe.stages[name].inputs["left"] for name in ("more", "less")] == ["three", "one"]
    aliased = RECIPE.replace("one: {", "one: &one {") + "  two: *one\n"
    (tmp_path / "toy.yaml").write_text(aliased)
    recipe = load_recipe(tmp_path / "toy.yaml", ["two.scale=2"])
    assert [recipe.stages[name].config.scale for name in ("one", "two")] == [1, 2]  # type: ignore[attr-defined]


def test_a_model_among_the_inputs_may_be_none(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(RECIPE.replace("{right: three}", "{right: three, extra: one}"))
    without = load_recipe(tmp_path / "toy.yaml", ["sum.inputs.extra=null"]).stages["sum"]
    assert (without.inputs, without.config.extra) == ({"left": "one", "right": "three"}, None)  # type: ignore[attr-defined]
    path = load_recipe(tmp_path / "toy.yaml", ["sum.inputs.extra=null", "sum.extra=e"]).stages["sum"]
    assert path.config.extra == tmp_path / "e"  # type: ignore[attr-defined]
    with pytest.raises(LstError, match=r"inputs\.left: the recipe has no stage"):
        load_recipe(tmp_path / "toy.yaml", ["sum.inputs.left=null"])


PAPER = sorted((Path(__file__).parents[2] / "recipes" / "paper").glob("*.yaml"))


SHARED = [path for path in PAPER if path.stem not in ("training", "speech")]  # settings alone; a run of its own


@pytest.mark.parametrize("path", SHARED, ids=lambda path: path.stem)
def test_the_recipes_of_the_paper_are_sound_and_share_a_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    recipe, everything = load_recipe(path), load_recipe(path.with_name("all.yaml"))
    assert recipe.name == "paper"
    assert {name: everything.stages[name] for name in recipe.stages} == recipe.stages


def test_the_papers_speech_is_made_as_the_corpus_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    paper = PAPER[0].parent
    speech, corpus = load_recipe(paper / "speech.yaml"), load_recipe(paper / "corpus.yaml")
    assert speech.name != corpus.name  # what it makes must not replace the shipped stages of the other run
    made = {name for name, stage in corpus.stages.items() if stage.kind_name == "made"}
    assert made == speech.stages.keys() - {"ingest", "tokenize-audio"}


def test_the_model_in_the_box_is_made_from_the_papers_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    root = Path(__file__).parents[2] / "recipes"
    box, corpus = load_recipe(root / "assets" / "lst-nano.yaml"), load_recipe(root / "paper" / "corpus.yaml")
    assert box.name == corpus.name
    for name, stage in corpus.stages.items():
        found = box.stages[name]
        assert (found.config, found.inputs) == (stage.config, stage.inputs)
        assert (found.source and found.source.resolve()) == (stage.source and stage.source.resolve())


@pytest.mark.parametrize(
    "name", ["demo", "nano-data", "nano-patchings", "nano-patchings-control", "nano-patchings-sweep", "nano-variants"]
)
def test_the_recipes_that_ship_are_sound(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    recipe = load_recipe(Path(__file__).parents[2] / "recipes" / f"{name}.yaml")
    assert recipe.name == name


def test_a_benchmark_with_the_units_of_another_tokenizer_is_told_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    demo = Path(__file__).parents[2] / "recipes" / "demo.yaml"
    other = "tokenize-audio.tokenizer=mfcc-501"
    expected = (
        r"stages\.storycloze-data\.tokenizer: eval-storycloze would test a model of the units of mfcc-501 with those of"
    )
    with pytest.raises(LstError, match=expected):
        load_recipe(demo, [other])
    assert load_recipe(demo, [other, "storycloze-data.tokenizer=mfcc"]).stages  # another name for the same
    assert load_recipe(demo, [other, "storycloze-data.tokenizer=null"]).stages
    assert load_recipe(demo, [other, "storycloze-data.tokenizer=/not/here"]).stages
