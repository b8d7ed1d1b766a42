"""Settings: what is refused, with which words, and what is part of a model's identity."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lst.errors import LstError, UsageError
from lst.manifest import Manifest
from lst.train.config import BatchConfig, BudgetConfig
from lst.train.finetune import FinetuneConfig, finetune_spec
from lst.train.options import load_pretrain_options, plan_of, settings_of
from lst.train.schedule import lr_factor
from lst.train.stage import PretrainConfig, model_config_of, pretrain_spec
from lst.train.stream import steps_in_budget


def options(tmp_path: Path, text: str, *changes: str) -> PretrainConfig:
    file = tmp_path / "pretrain.yaml"
    file.write_text(text, encoding="utf-8")
    return load_pretrain_options(file, changes).config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optimiser: {lr: 1}", "optimiser: unknown key. Did you mean 'optimizer'?"),
        ("optimizer: {warmup: 1}", "optimizer.warmup: unknown key. Did you mean 'warmup_steps'?"),
        ("batch: {rows: 0}", "batch.rows"),
        ("batch: {rows: 6, accumulate: 4}", "multiple of batch.accumulate"),
        ("validate_every: 15", "validate_every (15) must be a multiple of log_every (10)"),
        ("checkpoint: {every_steps: 15}", "checkpoint.every_steps (15) must be a multiple"),
        ("checkpoint: {every_steps: null, every_seconds: null}", "would lose everything"),
        ("checkpoint: {keep: 1}", "checkpoint.keep"),
        ("budget: {kind: epochs}", "budget.kind"),
        ("dtype: float16", "dtype"),
        ("model: {preset: pico}", "there is no preset 'pico'"),
        ("model: {overrides: {global_transformer: {heads: 5}}}", "do not divide"),
        ("model: {overrides: {pooling: median}}", "pooling"),
        ("patching: {tau1: 0.9, tau2: 0.1}", "tau2"),
        ("mixture: {speech: 0, text: 0}", "nothing would be read"),
        ("- a list", "a mapping of keys"),
    ],
)
def test_wrong_settings_are_refused_with_their_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(LstError) as caught:
        options(tmp_path, text)
    assert said in str(caught.value)
    assert "pretrain.yaml" in str(caught.value)


def test_settings_that_do_not_go_together_are_told_in_one_sentence(tmp_path: Path) -> None:
    said = "words are named by patches of speech: not with patching.mode bpe, nor without speech."
    with pytest.raises(LstError) as caught:
        options(tmp_path, "words: {}\nmixture: {speech: 0}")
    assert str(caught.value) == f"{tmp_path / 'pretrain.yaml'}: {said}"
    with pytest.raises(UsageError) as caught:
        options(tmp_path, "mixture: {speech: 0}", "words={}")
    assert str(caught.value) == f"words={{}}: {said}"


def test_changes_on_the_command_line(tmp_path: Path) -> None:
    config = options(tmp_path, "seed: 3\noptimizer: {lr: 0.1}", "optimizer.lr=2e-3", "model.overrides.pooling=mean")
    assert (config.seed, config.optimizer.lr, config.model.overrides) == (3, 2e-3, {"pooling": "mean"})
    with pytest.raises(UsageError, match=r"optimizer\.lr_=1: .*Did you mean 'lr'"):
        options(tmp_path, "seed: 3", "optimizer.lr_=1")
    with pytest.raises(UsageError, match="not KEY=VALUE"):
        options(tmp_path, "seed: 3", "seed")


def test_the_text_model_to_begin_as_is_found_like_the_data(tmp_path: Path) -> None:
    file = tmp_path / "pretrain.yaml"
    file.write_text("warm_start: llama\n", encoding="utf-8")
    assert load_pretrain_options(file, []).config.warm_start == tmp_path / "llama"
    assert load_pretrain_options(file, ["warm_start=other"]).config.warm_start == Path("other")
    assert load_pretrain_options(file, [], warm_start=Path("third")).config.warm_start == Path("third")
    assert load_pretrain_options(file, ["warm_start=null"]).config.warm_start is None
    assert options(tmp_path, "seed: 3").warm_start is None


def test_directories_are_relative_to_the_file_or_to_the_caller(tmp_path: Path) -> None:
    file = tmp_path / "pretrain.yaml"
    file.write_text("pairs: here/pairs\ntext: here/text\n", encoding="utf-8")
    found = load_pretrain_options(file, ["text=there/text"])
    assert found.pairs == tmp_path / "here/pairs"
    assert found.text == Path("there/text")
    with pytest.raises(LstError, match="does not exist"):
        found.open()
    file.write_text("seed: 1\n", encoding="utf-8")
    with pytest.raises(LstError, match="name no pairs"):
        load_pretrain_options(file, []).open()


def test_a_recipe_is_not_the_settings_of_a_stage() -> None:
    for name in ("demo", "nano-patchings"):
        recipe = Path(__file__).parents[2] / "recipes" / f"{name}.yaml"
        with pytest.raises(LstError, match=rf"{name}\.yaml is a recipe: it names stages.*Run lst run .*{name}\.yaml"):
            load_pretrain_options(recipe, [])


def test_how_often_a_run_is_saved_is_not_part_of_its_identity(data: tuple[Manifest, Manifest]) -> None:
    often = settings_of(PretrainConfig, {"checkpoint": {"every_steps": 10}}, [], "")
    assert pretrain_spec(*data, often).id == pretrain_spec(*data, PretrainConfig()).id
    assert pretrain_spec(*data, PretrainConfig(seed=1)).id != pretrain_spec(*data, PretrainConfig()).id
    assert "checkpoint" not in often.as_json()


def test_a_spec_refuses_other_inputs(data: tuple[Manifest, Manifest]) -> None:
    pairs, text = data
    with pytest.raises(LstError, match=r"lst\.pairs is needed"):
        pretrain_spec(text, text, PretrainConfig())
    with pytest.raises(LstError, match=r"lst\.model is needed"):
        finetune_spec(pairs, pairs, FinetuneConfig(task="asr"))


def test_planning_loads_no_torch() -> None:
    code = "import sys, lst.train.stage, lst.train.finetune, lst.train.options; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_overrides_change_the_preset() -> None:
    config = PretrainConfig.model_validate(
        {"model": {"preset": "micro", "overrides": {"global_transformer": {"layers": 3}}}, "patching": {"size": 6}}
    )
    shape = model_config_of(config, text_size=100)
    assert (shape.global_transformer.layers, shape.global_transformer.dim, shape.patching.size) == (3, 512, 6)
    base = PretrainConfig.model_validate({"model": {"preset": "micro", "base": "same-global"}})
    assert model_config_of(base, text_size=100).is_base


def test_the_recipe_in_the_repository_is_valid_and_plans(tmp_path: Path) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "pretrain-nano.yaml"
    found = load_pretrain_options(recipe, [])
    plan = plan_of(found)
    assert plan["parameters"] == sum(plan["parameters_by_module"].values())
    assert plan["steps"] == found.config.budget.amount
    flops = plan_of(load_pretrain_options(recipe, ["budget.kind=flops", "budget.amount=1e13"]))
    assert flops["steps"] * flops["flops_per_step"] == pytest.approx(1e13, rel=0.1)


@pytest.mark.parametrize(
    ("name", "processes", "billions", "units", "steps"),
    [("1b", 32, 1.5, 4096 * 4 * 32, 200_000), ("7b", 128, 6.8, 2**22, 25_000)],
)
def test_the_papers_runs_plan_on_the_meta_device(
    name: str, processes: int, billions: float, units: int, steps: int
) -> None:
    found = load_pretrain_options(Path(__file__).parents[2] / "recipes" / f"pretrain-{name}.yaml", [])
    plan = plan_of(found, processes=processes)
    assert plan["parameters"] / 1e9 == pytest.approx(billions, rel=0.02)
    assert (plan["units_per_step"], plan["steps"]) == (units, steps)
    assert plan["memory_mb"] < 75_000  # fits an H100
    assert found.config.batch.rows % (processes * found.config.batch.accumulate) == 0
    assert plan_of(found, processes=1)["memory_mb"] > plan["memory_mb"]


def test_budgets_fix_the_steps_where_they_can() -> None:
    batch = BatchConfig(rows=4, sequence_units=100)
    assert steps_in_budget(BudgetConfig(kind="steps", amount=7), batch) == 7
    assert steps_in_budget(BudgetConfig(kind="compute", amount=4001), batch) == 11
    assert steps_in_budget(BudgetConfig(kind="flops", amount=1e9), batch) is None
    assert steps_in_budget(BudgetConfig(kind="data", amount=1e9), batch) is None


def test_learning_rate_begins_above_zero_and_ends_at_its_share() -> None:
    def factor(steps: int, progress: float) -> float:
        return lr_factor(steps, progress, warmup_steps=10, final=0.01)

    assert factor(0, 0.0) == pytest.approx(0.1)
    assert factor(9, 0.0) == 1.0
    assert factor(500, 0.5) == pytest.approx(0.505)
    assert factor(1000, 1.0) == pytest.approx(0.01)
    assert lr_factor(0, 0.0, warmup_steps=0, final=0.0) == 1.0


@given(st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 1), st.integers(0, 1000))
def test_learning_rate_stays_within_bounds(steps: int, progress: float, final: float, warmup: int) -> None:
    value = lr_factor(steps, progress, warmup_steps=warmup, final=final)
    assert math.isfinite(value)
    assert 0 <= value <= 1 + 1e-12
    if steps >= warmup:
        assert value >= final - 1e-12


def test_pieces_count_only_where_they_are_asked_for() -> None:
    """Models fine-tuned before there was the key keep their content id."""
    assert "pieces" not in FinetuneConfig(task="asr").as_json()
    settings = FinetuneConfig.model_validate({"task": "tts", "pieces": {"share": 0.8}}).as_json()
    assert settings["pieces"] == {"share": 0.8, "max_words": 8}
