"""Fine-tuning beyond the loss: low-rank changes, error rates while training, the best by them, presets."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from lst.errors import LstError
from lst.manifest import Manifest
from lst.model.checkpoint import load_model
from lst.model.linear import Linear
from lst.train.control import TrainingStopped
from lst.train.finetune import PRESETS, FinetuneConfig, finetune
from lst.train.lora import HEADS, add_lora, merge_lora
from lst.train.options import settings_of
from lst.train.stage import PretrainConfig, pretrain
from tests.train.test_engine import interrupt_at
from tests.train.test_stages import TINY, finetune_config


@pytest.fixture(scope="module")
def model(data: tuple[Manifest, Manifest], tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return pretrain(*data, tmp_path_factory.mktemp("lora") / "model", settings_of(PretrainConfig, TINY, [], ""))


def changed(config: FinetuneConfig, **more: Any) -> FinetuneConfig:
    return FinetuneConfig.model_validate(config.model_dump() | more)


def lines(made: Manifest, split: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in made.file("metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["split"] == split]


def test_a_low_rank_change_starts_at_nothing_and_merges_into_the_weights(model: Manifest) -> None:
    from lst.train.finetune import Lora

    before = load_model(model.path).model
    weights = {name: value.clone() for name, value in before.state_dict().items()}
    adapted = add_lora(load_model(model.path).model, Lora(rank=2, alpha=4), seed=1)
    layers = [name for name, layer in adapted.named_modules() if isinstance(layer, Linear) and name not in HEADS]
    assert layers
    for name in layers:
        assert torch.equal(adapted.get_submodule(name).weight, weights[f"{name}.weight"])
    trained = dict(adapted.named_parameters())
    assert not any(name.endswith(".original") for name in trained)
    assert not set(trained) & {f"{name}.weight" for name in layers}
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if name.endswith(".weight.0.b"):
                value.add_(1.0)
    merged = merge_lora(adapted)
    assert set(dict(merged.named_parameters())) == set(dict(before.named_parameters()))
    for name in layers:
        difference = merged.get_submodule(name).weight - weights[f"{name}.weight"]
        assert torch.linalg.matrix_rank(difference) == 1  # B's columns are all ones: one direction


def test_fine_tuning_with_low_rank_changes(data: tuple[Manifest, Manifest], model: Manifest, tmp_path: Path) -> None:
    config = changed(finetune_config("asr", 20), lora=2)
    assert config.lora is not None
    assert config.lora.rank == 2
    made = finetune(model, data[0], tmp_path / "asr", config)
    before, after = load_model(model.path).model, load_model(made.path).model
    assert made.totals["train_loss"] < made.totals["first_loss"]
    moved = 0
    for name, layer in before.named_modules():
        if isinstance(layer, Linear) and name not in HEADS:
            difference = after.get_submodule(name).weight - layer.weight
            assert torch.linalg.matrix_rank(difference.double(), rtol=1e-4) <= 2, name
            moved += bool(difference.abs().max() > 0)
    assert moved > 4
    assert before.head.weight.shape == after.head.weight.shape
    assert not torch.equal(before.head.weight, after.head.weight)


def test_a_stopped_low_rank_run_ends_with_the_same_weights(
    data: tuple[Manifest, Manifest], model: Manifest, tmp_path: Path
) -> None:
    config = changed(finetune_config("asr", 12), lora=2, validate_every=5, checkpoint={"every_steps": 5})
    undisturbed = finetune(model, data[0], tmp_path / "undisturbed", config)
    stop = interrupt_at(7, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(TrainingStopped, match=r"Stopped after step [78] of 12"):
        finetune(model, data[0], tmp_path / "asr", config, progress=stop)
    resumed = finetune(model, data[0], tmp_path / "asr", config)
    weights = {made.path: load_model(made.path).model.state_dict() for made in (undisturbed, resumed)}
    for name, value in weights[undisturbed.path].items():
        assert torch.equal(value, weights[resumed.path][name]), name
    assert [line["loss"] for line in lines(resumed, "train")] == [line["loss"] for line in lines(undisturbed, "train")]
    assert resumed.totals == undisturbed.totals


def test_error_rates_while_training_and_the_best_by_them(
    data: tuple[Manifest, Manifest], model: Manifest, tmp_path: Path
) -> None:
    config = changed(finetune_config("asr", 30), valid_utterances=3, best="wer")
    made = finetune(model, data[0], tmp_path / "asr", config)
    valid = lines(made, "valid")
    assert [line["step"] for line in valid] == [10, 20, 30]
    assert all(line["wer"] > 0 and line["cer"] > 0 and 0 <= line["non_stopping"] <= 1 for line in valid)
    # The weights kept are those of the step with the lowest WER, the first of them.
    best = min(valid, key=lambda line: (line["wer"], line["step"]))
    from lst.data.loader import text_tokenizer_of
    from lst.evaluate.speech_data import utterances
    from lst.train.hearing import Hearing

    loaded = load_model(made.path)
    chosen = utterances(data[0], split="valid", rows=3, seed=config.seed)
    again = Hearing("asr", model, loaded.config, text_tokenizer_of(model), None, chosen).measure(loaded.model)
    assert again["wer"] == pytest.approx(best["wer"])
    none = finetune(model, data[0], tmp_path / "none", changed(finetune_config("asr", 10), valid_utterances=0))
    assert "wer" not in lines(none, "valid")[0]


def test_synthesis_cannot_be_judged_without_a_judge(
    data: tuple[Manifest, Manifest], model: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lst.evaluate.judge

    monkeypatch.setattr(lst.evaluate.judge, "judge_installed", lambda: False)
    config = changed(finetune_config("tts", 10), valid_utterances=2)
    with pytest.raises(LstError, match="the judge is not installed"):
        finetune(model, data[0], tmp_path / "tts", config)


def test_presets_are_valid_and_lora_needs_whole_layers() -> None:
    for settings in PRESETS.values():
        for task in ("asr", "tts"):
            settings_of(FinetuneConfig, settings | {"task": task}, [], "")
    paper = settings_of(FinetuneConfig, PRESETS["paper"] | {"task": "asr"}, [], "")
    assert (paper.batch.rows, paper.batch.sequence_units) == (4, 4096)
    with pytest.raises(LstError, match="lora goes with parallel: ddp"):
        settings_of(FinetuneConfig, {"task": "asr", "lora": 4, "parallel": "fsdp"}, [], "")
