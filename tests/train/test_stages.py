"""The stages: from manifests to a model directory, and from that to a fine-tuned one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lst.errors import LstError
from lst.manifest import Manifest, StageSpec, build_shards, load_manifest
from lst.train.finetune import FinetuneConfig, finetune
from lst.train.options import settings_of
from lst.train.stage import PretrainConfig, pretrain
from tests.train.toys import PairsWorker, tokenizer_model

TINY: dict[str, Any] = {
    "model": {
        "overrides": {
            "encoder": {"layers": 1, "dim": 16, "heads": 2, "window": 32},
            "global_transformer": {"layers": 2, "dim": 32, "heads": 2},
            "decoder": {"layers": 1, "dim": 16, "heads": 2, "window": 32},
        }
    },
    "batch": {"sequence_units": 64, "rows": 4},
    "budget": {"amount": 20},
    "optimizer": {"lr": 1e-2, "warmup_steps": 4},
    "log_every": 5,
    "validate_every": 10,
    "valid_rows": 4,
    "checkpoint": {"every_steps": 10, "every_seconds": None},
}


def finetune_config(task: str, steps: int) -> FinetuneConfig:
    shared = {key: TINY[key] for key in ("batch", "optimizer", "log_every", "valid_rows", "checkpoint")}
    own = {"task": task, "budget": {"amount": steps}, "validate_every": 10}
    return settings_of(FinetuneConfig, shared | own, [], "")


@pytest.fixture(scope="module")
def model(data: tuple[Manifest, Manifest], tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    config = settings_of(PretrainConfig, TINY, [], "")
    return pretrain(*data, tmp_path_factory.mktemp("stage") / "model", config)


def test_a_model_directory_is_complete(model: Manifest, data: tuple[Manifest, Manifest]) -> None:
    from lst.model.checkpoint import load_model

    assert (model.schema, model.stage) == ("lst.model/1", "pretrain")
    assert model.fingerprints["tokenizer"] == "toy-units"
    assert len(model.fingerprints["model"]) == 64
    assert model.totals["steps"] == 20
    assert model.totals["train_loss"] < model.totals["first_loss"]
    assert model.totals["flops"] > 0
    assert model.totals["valid_speech_bits_per_second"] > 0
    assert model.provenance == data[0].provenance
    names = {path.relative_to(model.path).as_posix() for path in model.path.rglob("*") if path.is_file()}
    boards = {name for name in names if name.startswith("tensorboard/")}
    assert boards
    assert names - boards == {
        "manifest.json",
        "model.safetensors",
        "config.json",
        "tokenizer.model",
        "metrics.jsonl",
        "train.log",
    }
    loaded = load_model(model.path)
    assert sum(value.numel() for value in loaded.model.parameters()) == model.totals["parameters"]
    lines = [json.loads(line) for line in model.file("metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines if line["split"] == "valid"] == [10, 20]
    assert set(lines[-1]["sets"]) == {"speech", "text", "interleaved"}
    across = {"text_to_speech_bits_per_second", "speech_to_text_bits_per_token"}
    assert across <= set(lines[-1]["sets"]["interleaved"])
    assert not across & (set(lines[-1]["sets"]["speech"]) | set(lines[-1]["sets"]["text"]))
    assert all(lines[-1][key] == lines[-1]["sets"]["interleaved"][key] for key in across)


def test_the_same_model_is_not_trained_again(
    model: Manifest, data: tuple[Manifest, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lst.train import engine

    monkeypatch.setattr(engine, "train", lambda job: pytest.fail("trained again"))
    config = settings_of(PretrainConfig, TINY | {"checkpoint": {"every_steps": 5}}, [], "")
    assert pretrain(*data, model.path, config).id == model.id
    with pytest.raises(LstError, match="from other inputs or settings"):
        pretrain(*data, model.path, config.model_copy(update={"seed": 9}))


def test_fine_tuning_learns_its_task_and_keeps_the_best(
    model: Manifest, data: tuple[Manifest, Manifest], tmp_path: Path
) -> None:
    settings = {key: TINY[key] for key in ("batch", "optimizer", "log_every", "valid_rows", "checkpoint")}
    config = settings_of(
        FinetuneConfig, settings | {"task": "asr", "budget": {"amount": 30}, "validate_every": 10}, [], ""
    )
    tuned = finetune(model, data[0], tmp_path / "asr", config)
    assert (tuned.schema, tuned.stage, tuned.config["task"]) == ("lst.model/1", "finetune", "asr")
    assert tuned.inputs["model"].id == model.id
    assert tuned.fingerprints["model"] != model.fingerprints["model"]
    lines = [json.loads(line) for line in tuned.file("metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    valid = [line for line in lines if line["split"] == "valid"]
    assert valid[-1]["loss"] < valid[0]["loss"]
    assert tuned.totals["valid_loss"] == pytest.approx(min(line["loss"] for line in valid), abs=1e-6)
    assert all(line["total"]["speech_targets"] == 0 for line in lines if line["split"] == "train")  # text only
    assert all("speech_bits_per_second" not in line for line in valid)
    assert load_manifest(tuned.path).file("tokenizer.model").read_bytes() == tokenizer_model()


def test_fine_tuning_refuses_data_of_another_tokenizer(model: Manifest, tmp_path: Path) -> None:
    other = build_shards(
        tmp_path / "pairs",
        StageSpec(
            "lst.pairs/1", "interleave", 1, {}, fingerprints={"tokenizer": "other", "text_tokenizer": "toy-text"}
        ),
        [0],
        PairsWorker(tokenizer_model(), 4),
        artifacts={"tokenizer.model": tokenizer_model()},
    )
    with pytest.raises(LstError, match=r"units of tokenizer .*other, but the model .*toy-units"):
        finetune(model, other, tmp_path / "asr", FinetuneConfig(task="asr"))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["none", "bpe", "aligned", "mixed"])
def test_every_patching_trains_and_is_fine_tuned(mode: str, data: tuple[Manifest, Manifest], tmp_path: Path) -> None:
    base = mode in ("none", "bpe")
    wide = {"global_transformer": TINY["model"]["overrides"]["global_transformer"]}
    overrides = wide if base else TINY["model"]["overrides"]
    settings = TINY | {"patching": {"mode": mode}, "model": {"overrides": overrides}, "unit_bpe_size": 520}
    made = pretrain(*data, tmp_path / "model", settings_of(PretrainConfig, settings, [], ""))
    assert made.totals["train_loss"] < made.totals["first_loss"]
    shared = {key: TINY[key] for key in ("batch", "optimizer", "log_every", "valid_rows", "checkpoint")}
    config = settings_of(
        FinetuneConfig, shared | {"task": "tts", "budget": {"amount": 10}, "validate_every": 10}, [], ""
    )
    tuned = finetune(made, data[0], tmp_path / "tts", config)
    assert tuned.totals["valid_speech_bits_per_second"] > 0
    assert ("unit_bpe.model" in tuned.artifacts) == (mode == "bpe")


def test_pieces_know_how_long_they_are() -> None:
    from lst.data.unit_bpe import train_unit_bpe

    bpe = train_unit_bpe([np.array([1, 2, 1, 2, 3] * 40, dtype=np.uint16)], size=510)
    units = np.array([1, 2, 3, 1, 2], dtype=np.uint16)
    frames = bpe.frames()
    assert sum(frames[piece] for piece in bpe.encode(units)) == len(units)


def test_the_command_line(model: Manifest, data: tuple[Manifest, Manifest], tmp_path: Path, capsys: Any) -> None:
    import typer
    import yaml

    from lst.cli.train import register

    app = typer.Typer()
    register(app)

    def run(*arguments: object) -> str:
        app([str(argument) for argument in arguments], standalone_mode=False)
        return str(capsys.readouterr().out)

    file = tmp_path / "pretrain.yaml"
    file.write_text(yaml.safe_dump(TINY | {"pairs": str(data[0].path), "text": str(data[1].path)}), encoding="utf-8")
    assert model.id[:12] in run("pretrain", "--config", file, "--out", model.path)
    plan = json.loads(
        run("pretrain", "--config", file, "--out", tmp_path / "x", "--dry-run", "--json", "budget.amount=7")
    )
    assert plan["steps"] == 7
    assert plan["parameters"] == model.totals["parameters"]
    assert not (tmp_path / "x").exists()
    costs = json.loads(run("model", "1.1b", "--json"))
    assert 1.2e9 < costs["parameters"] < 1.6e9
    assert costs["sequence_units_per_3_original_tokens"] == pytest.approx(2.42, abs=0.005)
    assert costs["gb_per_gpu_with_activation_checkpointing"] < costs["gb_per_gpu"] < 80
    assert costs["units_per_step"] == 4096 * 4 * 32
    assert costs["hours"] == pytest.approx(costs["training_flops"] / (32 * 989e12 * 0.4) / 3600)
    assert "parameters of global transformer" in run("model", "nano", "--base", "same-global")
    with pytest.raises(LstError, match="valid are auto and never"):
        run("pretrain", "--config", file, "--out", tmp_path / "x", "--resume", "always")
    with pytest.raises(LstError, match=r"lst\.pairs is needed"):
        run("finetune", "asr", "--model", model.path, "--data", data[1].path, "--out", tmp_path / "x")


@pytest.mark.slow
def test_pretraining_begins_as_a_text_model(data: tuple[Manifest, Manifest], tmp_path: Path) -> None:
    from lst.data.loader import text_tokenizer_of
    from lst.model.checkpoint import load_model
    from lst.train.stage import pretrain_spec
    from tests.model.test_llama import llama

    llama(tmp_path / "text", vocab_size=text_tokenizer_of(data[0]).vocab_size)
    wide = {"layers": 3, "dim": 32, "heads": 4, "kv_heads": 2, "ffn_multiple": 3.0, "rope_theta": 5e4}
    settings = TINY | {
        "patching": {"mode": "none"},
        "model": {"overrides": {"global_transformer": wide}},
        "budget": {"amount": 1},
        "optimizer": {"lr": 1e-9, "warmup_steps": 0, "weight_decay": 0.0},
    }
    plain = settings_of(PretrainConfig, settings, [], "")
    config = plain.model_copy(update={"warm_start": tmp_path / "text"})
    made = pretrain(*data, tmp_path / "model", config)
    expected = llama(tmp_path / "again", vocab_size=text_tokenizer_of(data[0]).vocab_size).state_dict()
    found = load_model(made.path).model.global_transformer.state_dict()
    np.testing.assert_allclose(
        found["layers.2.attention.out.weight"], expected["model.layers.2.self_attn.o_proj.weight"], atol=1e-6
    )
    assert made.id != pretrain_spec(*data, plain).id
    (tmp_path / "text").rename(tmp_path / "moved")
    config = config.model_copy(update={"warm_start": tmp_path / "moved"})
    assert made.id == pretrain_spec(*data, config).id
    wrong = config.model_copy(update={"model": config.model.model_copy(update={"overrides": {}})})
    with pytest.raises(LstError, match=r"Set model\.overrides to"):
        pretrain(*data, tmp_path / "wrong", wrong)


def test_pretraining_goes_on_from_a_model(model: Manifest, data: tuple[Manifest, Manifest], tmp_path: Path) -> None:
    from lst.model.checkpoint import load_model
    from lst.train.stage import pretrain_spec

    still = {"budget": {"amount": 1}, "optimizer": {"lr": 1e-9, "warmup_steps": 0, "weight_decay": 0.0}}
    plain = settings_of(PretrainConfig, TINY | still | {"patching": {"mode": "curriculum"}}, [], "")
    config = plain.model_copy(update={"warm_start": model.path})
    made = pretrain(*data, tmp_path / "on", config)
    before, after = load_model(model.path).model.state_dict(), load_model(made.path).model.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, atol=1e-6, err_msg=name)
    assert load_model(made.path).config.patching.mode == "curriculum"
    assert made.id != pretrain_spec(*data, plain).id
    assert made.provenance == model.provenance

    longer = settings_of(PretrainConfig, TINY, [], "").model_copy(update={"warm_start": model.path})
    on = pretrain(*data, tmp_path / "longer", longer)
    assert on.totals["first_loss"] < (model.totals["first_loss"] + model.totals["train_loss"]) / 2
    assert on.totals["train_loss"] < model.totals["train_loss"]


def test_what_training_cannot_go_on_from(model: Manifest, data: tuple[Manifest, Manifest], tmp_path: Path) -> None:
    import shutil

    plain = settings_of(PretrainConfig, TINY, [], "")
    wide = settings_of(PretrainConfig, TINY, ["model.overrides.decoder.dim=32"], "")
    with pytest.raises(LstError, match=r"has decoder .*'dim': 16.*model\.overrides"):
        pretrain(*data, tmp_path / "a", wide.model_copy(update={"warm_start": model.path}))
    copied = tmp_path / "copied"
    shutil.copytree(model.path, copied)
    weights = bytearray((copied / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copied / "model.safetensors").write_bytes(bytes(weights))
    with pytest.raises(LstError, match=r"model\.safetensors"):
        pretrain(*data, tmp_path / "b", plain.model_copy(update={"warm_start": copied}))
    (copied / "manifest.json").unlink()
    with pytest.raises(LstError, match="without its manifest"):
        pretrain(*data, tmp_path / "c", plain.model_copy(update={"warm_start": copied}))
    with pytest.raises(LstError, match="nowhere"):
        pretrain(*data, tmp_path / "d", plain.model_copy(update={"warm_start": tmp_path / "nowhere"}))


def test_training_goes_on_only_with_its_own_tokenizers(
    model: Manifest, data: tuple[Manifest, Manifest], tmp_path: Path
) -> None:
    spec = StageSpec("lst.model/1", "pretrain", 1, {}, fingerprints={**model.fingerprints, "tokenizer": "others"})
    from lst.manifest import DirectoryResult, build_directory

    def make(directory: Path) -> DirectoryResult:
        for name in ("config.json", "model.safetensors"):
            (directory / name).write_bytes(model.file(name).read_bytes())
        return DirectoryResult(artifacts=["config.json", "model.safetensors"])

    other = build_directory(tmp_path / "other", spec, make)
    config = settings_of(PretrainConfig, TINY, [], "").model_copy(update={"warm_start": other.path})
    with pytest.raises(LstError, match="others"):
        pretrain(*data, tmp_path / "e", config)
