"""The model in the box: made from stand-ins that are trained for a moment, and used by name through the commands."""

import importlib
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from lst.assets import cards, read_card, verify_asset
from lst.cli.main import run
from lst.errors import LstError
from lst.evaluate.recognition import AsrEvalConfig, evaluate_asr
from lst.evaluate.stage import LossesConfig, losses
from lst.generate.session import open_session
from lst.manifest import Manifest, load_manifest
from lst.manifest.inspect import verify_manifest
from lst.text.tokenizer import TextTokenizer
from lst.train.finetune import finetune
from lst.train.options import settings_of
from lst.train.stage import PretrainConfig, pretrain
from tests.train.test_stages import TINY, finetune_config
from tests.train.toys import tokenizer_model, toy_data

ROOT = Path(__file__).parents[2]
SPOKEN = ROOT / "data_manifests" / "sample" / "asterisk" / "activated.opus"
PARTS = ("pretrained", "asr", "tts")


@pytest.fixture(scope="module")
def script() -> Any:
    sys.path.insert(0, str(ROOT / "recipes" / "assets"))
    return importlib.import_module("lst_nano")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Manifest]:
    """A pre-trained model and its two fine-tunings on the default tokenizer's units, pairs, text, two evaluations."""
    place = tmp_path_factory.mktemp("trained")
    units = read_card(cards.EMBEDDED / "hubert-nano-25hz-501" / "card.json").fingerprint
    pairs, text = toy_data(place, rows=20, units=units, text=TextTokenizer(tokenizer_model()).fingerprint)
    settings = TINY | {"budget": {"amount": 2}, "validate_every": None}
    made = {"pairs": pairs, "text": text}
    made["pretrained"] = pretrain(pairs, text, place / "model", settings_of(PretrainConfig, settings, [], ""))
    made["asr-first"] = finetune(made["pretrained"], pairs, place / "asr-first", finetune_config("asr", 1))
    for task, source in (("asr", "asr-first"), ("tts", "pretrained")):  # in several stages, and in one
        made[task] = finetune(made[source], pairs, place / task, finetune_config(task, 2))
    config = AsrEvalConfig(rows=2, max_tokens=4, resamples=100)  # type: ignore[call-arg]
    made["eval-asr"] = evaluate_asr(made["asr"], pairs, place / "lst-nano-asr-wer", config)
    config = LossesConfig(max_rows=2)  # type: ignore[call-arg]
    made["eval-losses"] = losses(made["pretrained"], pairs, text, place / "lst-nano-losses", config)
    return made


def arguments(trained: Mapping[str, Manifest], *more: str) -> list[str]:
    return [str(trained[name].path) for name in (*PARTS, *more)]


@pytest.fixture(scope="module")
def asset(script: Any, trained: dict[str, Manifest], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("asset") / "lst-nano"
    script.main([*arguments(trained, "eval-asr", "eval-losses"), str(out)])
    return out


@pytest.fixture
def box(asset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The embedded assets with the stand-in among them."""
    place = tmp_path / "embedded"
    place.mkdir()
    for other in cards.EMBEDDED.iterdir():
        if other.name != "lst-nano":
            (place / other.name).symlink_to(other)
    shutil.copytree(asset, place / "lst-nano")
    monkeypatch.setattr(cards, "EMBEDDED", place)
    monkeypatch.setenv("LST_CACHE", str(tmp_path / "cache"))
    return place / "lst-nano"


def test_the_asset_is_three_models_and_a_card(asset: Path, trained: dict[str, Manifest]) -> None:
    assert verify_asset(asset) == []
    card = read_card(asset / "card.json")
    assert card.kind == "model"
    assert len(card.files) == 12
    for part in PARTS:
        stored, made = load_manifest(asset / part), trained[part]
        assert verify_manifest(asset / part) == []
        assert (stored.stage, stored.totals, stored.fingerprints["tokenizer"]) == (
            made.stage,
            made.totals,
            made.fingerprints["tokenizer"],
        )
        assert stored.id != made.id
        half, full = (load_file(item.file("model.safetensors")) for item in (stored, made))
        assert all(torch.equal(half[name], full[name].half()) for name in full)
        session = open_session(asset / part)
        assert {value.dtype for value in session.model.parameters()} == {torch.float32}
        assert session.task == ("" if part == "pretrained" else part)
        assert session.context == TINY["batch"]["sequence_units"]
        assert card.extra["models"][part]["steps"] == 2
    assert card.extra["flops"] == sum(trained[name].totals["flops"] for name in (*PARTS, "asr-first"))
    assert [stage["id"] for stage in card.extra["models"]["asr"]["before"]] == [trained["asr-first"].id]
    assert not card.extra["models"]["tts"]["before"]
    assert card.licence == "none"
    compared = card.extra["half_precision"]
    assert compared["losses"]["stored"] == pytest.approx(compared["losses"]["float32"], rel=2e-3)
    measured = card.extra["measured"]
    assert set(measured) == {"asr-wer", "losses"}
    assert measured["asr-wer"]["utterances"] == 2
    (voice,) = measured["asr-wer"]["voices"].values()
    assert voice["met_in_training"]
    assert measured["losses"]["bits per second of speech"] > 0


def test_it_is_the_same_wherever_it_is_made(
    asset: Path, script: Any, trained: dict[str, Manifest], tmp_path: Path
) -> None:
    again = tmp_path / "deeper" / "other-name"
    script.main([*arguments(trained, "eval-asr", "eval-losses"), str(again)])
    files = sorted(path.relative_to(asset) for path in asset.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    for name in files:
        assert (asset / name).read_bytes() == (again / name).read_bytes(), name
        if name.suffix == ".json":
            text = (asset / name).read_text(encoding="utf-8")
            assert str(trained["pairs"].path.parent) not in text
            assert not [value for value in strings(json.loads(text)) if value.startswith(("/", "../"))]


def test_the_pretrained_one_may_have_gone_on_from_the_recogniser(
    script: Any, trained: dict[str, Manifest], tmp_path: Path
) -> None:
    settings = TINY | {"budget": {"amount": 1}, "validate_every": None, "words": {}}
    config = settings_of(PretrainConfig, settings, [], "")
    data = (trained["pairs"], trained["text"])
    going = pretrain(*data, tmp_path / "on", config.model_copy(update={"warm_start": trained["asr"].path}))
    others = [str(trained[task].path) for task in ("asr", "tts")]
    script.main([str(going.path), *others, str(tmp_path / "lst-nano")])
    card = read_card(tmp_path / "lst-nano" / "card.json")
    (earlier,) = card.extra["models"]["pretrained"]["before"]
    assert earlier["id"] == trained["pretrained"].id
    assert earlier["flops"] == trained["pretrained"].totals["flops"]
    names = (*PARTS, "asr-first")
    assert card.extra["flops"] == going.totals["flops"] + sum(trained[name].totals["flops"] for name in names)
    assert card.description.endswith(" went on from the recogniser, by naming words.")
    silent = {"pretrained": replace(going, config={}), "asr": trained["asr"]}
    assert script.told_of_going_on(silent) == " The pre-trained one went on from the recogniser."

    alone = pretrain(*data, tmp_path / "alone", config)
    with pytest.raises(LstError, match=r"asr is not .*alone, or what that began as, fine-tuned for asr"):
        script.main([str(alone.path), *others, str(tmp_path / "none")])
    foreign = finetune(alone, trained["pairs"], tmp_path / "tts", finetune_config("tts", 1))
    with pytest.raises(LstError, match="fine-tuned for tts"):
        script.main([str(going.path), others[0], str(foreign.path), str(tmp_path / "none")])


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in strings(item)]
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    return [value] if isinstance(value, str) else []


def test_what_does_not_belong_together_is_refused(
    script: Any, trained: dict[str, Manifest], asset: Path, tmp_path: Path
) -> None:
    pretrained, asr, tts = arguments(trained)
    out = str(tmp_path / "out")
    with pytest.raises(LstError, match=r"fine-tuned for asr.*in this order"):
        script.main([pretrained, tts, asr, out])
    with pytest.raises(LstError, match="is not a pre-trained model"):
        script.main([asr, asr, tts, out])
    other = evaluate_asr(trained["pretrained"], trained["pairs"], tmp_path / "eval", AsrEvalConfig(rows=1))  # type: ignore[call-arg]
    other_models = {part: trained[part] for part in ("asr", "tts")} | {"pretrained": trained["asr"]}
    with pytest.raises(LstError, match="measures another model"):
        script.measurements(other_models, other_models, [other])
    (tmp_path / "thesis").mkdir()
    with pytest.raises(LstError, match="no asset"):
        script.main([pretrained, asr, tts, str(tmp_path / "thesis")])
    assert not list(tmp_path.glob(".*"))


def test_commands_use_it_when_no_model_is_named(
    box: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stereo = tmp_path / "stereo.wav"
    soundfile.write(stereo, np.random.default_rng(0).normal(0, 0.1, (22_050, 2)), 44_100)
    assert run(["transcribe", str(SPOKEN), str(stereo), "--max-tokens", "4"]) == 0
    said = capsys.readouterr()
    assert [line.split("\t")[0] for line in said.out.splitlines()] == [str(SPOKEN), str(stereo)]
    assert said.err.splitlines()[0] == "lst: with lst-nano/asr, the model in the box; --model names another."

    assert run(["synthesize", "--text", "the small boat", "--max-seconds", "0.4", "--greedy"]) == 0
    said = capsys.readouterr()
    assert "lst-nano/tts" in said.err
    assert soundfile.info(tmp_path / "outputs" / "said.wav").samplerate == 16_000

    assert run(["generate", "--prompt", str(SPOKEN), "--max-tokens", "10"]) == 0
    said = capsys.readouterr()
    assert "lst-nano/pretrained" in said.err
    assert soundfile.info(tmp_path / "outputs" / "continued" / "whole.wav").duration > 1.0
    assert verify_manifest(tmp_path / "outputs" / "continued") == []


def test_it_goes_by_its_name(
    box: Path, trained: dict[str, Manifest], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["assets", "list", "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert (listed["lst-nano"]["kind"], listed["lst-nano"]["state"]) == ("model", "embedded")
    pairs, text = (str(trained[name].path) for name in ("pairs", "text"))
    measured = {}
    for name in ("lst-nano", "lst-nano/pretrained", str(box), str(box / "pretrained")):
        assert run(["eval", "losses", "--model", name, "--data", pairs, "--text", text, "--json"]) == 0
        measured[name] = json.loads(capsys.readouterr().out)["model_id"]
    assert set(measured.values()) == {load_manifest(box / "pretrained").id}
    assert run(["eval", "asr", "--model", "lst-nano", "--data", pairs, "--rows", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["task"] == "asr"
    assert run(["export", "lst-nano", "--out", str(tmp_path / "exported")]) == 0
    tuned = ["finetune", "asr", "--model", "lst-nano", "--data", pairs, "--out", str(tmp_path / "tuned"), "--json"]
    assert run([*tuned, "budget.amount=1", "batch.sequence_units=64", "validate_every=null"]) == 0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["transcribe", "--model", "lst-nano/tts", str(SPOKEN)], "fine-tuned to speak, not to recognise speech"),
        (["synthesize", "--model", "lst-nano/asr", "--text", "a"], "fine-tuned to recognise speech, not to speak"),
        (["generate", "--model", "lst-nano/asr", "--prompt", "the boat"], "not to go on from a prompt"),
        (["transcribe", "--model", "lst-nano/ears", str(SPOKEN)], "lst-nano has no part 'ears'. It has: pretrained"),
        (["transcribe", "--model", "mfcc-501", str(SPOKEN)], "mfcc-501 is a tokenizer, but a model is needed here"),
    ],
)
def test_the_wrong_model_is_refused_in_one_line(
    box: Path,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    message: str,
) -> None:
    assert run(command) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_damage_is_noticed_before_use(box: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = box / "asr" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert run(["transcribe", str(SPOKEN)]) == 1
    assert "asr/model.safetensors does not match the sha256 of its card" in capsys.readouterr().err
    assert run(["assets", "verify", "lst-nano"]) == 1
    weights.unlink()
    assert run(["transcribe", str(SPOKEN)]) == 1
    assert "model.safetensors is missing" in capsys.readouterr().err


def test_without_a_box_one_sentence_says_so(box: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(box)
    for command in (["transcribe", str(SPOKEN)], ["transcribe", "--model", "lst-nano/asr", str(SPOKEN)]):
        assert run(command) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line == "lst: There is no model in the box. Name one with --model: lst pretrain makes them."
