"""`train-tokenizer --kind hubert` on tiny audio: iteration 0, iteration 1, discriminants, stop and go on, bad input."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lst.assets import resolve_asset
from lst.errors import LstError, UsageError
from lst.manifest import Manifest, load_manifest
from lst.train.control import TrainingStopped
from lst.units import load_tokenizer, train_hubert
from lst.units.network import load_network
from lst.units.train import TrainTokenizerConfig, train_tokenizer
from tests.units.corpus import audio_manifest
from tests.units.test_stage import run_lst
from tests.units.tiny import speechlike

NETWORK = {"mel_bands": 16, "dim": 32, "layers": 2, "heads": 2, "ffn_dim": 48, "pos_kernel": 8, "pos_groups": 4}
TRAINING = {"steps": 3, "frames": 400, "warmup_steps": 1, "log_every": 1, "validate_every": 2}


def settings(**hubert: Any) -> TrainTokenizerConfig:
    body = {"network": NETWORK, "training": TRAINING, "fit_hours": 0.01, **hubert}
    return TrainTokenizerConfig(kind="hubert", units=12, max_frames=1000, hubert=body)


@pytest.fixture
def audio(tmp_path: Path) -> Manifest:
    return audio_manifest(tmp_path, [speechlike(16000 * 6, seed) for seed in range(4)])


@pytest.fixture
def valid(tmp_path: Path) -> Manifest:
    return audio_manifest(tmp_path / "valid", [speechlike(16000 * 17, 9)])


def phones_by_loudness(utterances: Any, *, frames: int, **_: Any) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Stands in for the aligner, which needs real speech: the phone is loud, soft or silent."""
    found = {}
    for key, samples, _, length in utterances:
        level = np.sqrt((samples.reshape(length, -1) ** 2).mean(axis=1))
        found[key] = [("S", "M", "L")[int(place)] for place in np.digitize(level, [0.02, 0.08])]
    return found, {}


def test_iteration_0_is_a_tokenizer_with_all_it_takes_to_go_on(
    audio: Manifest, valid: Manifest, tmp_path: Path
) -> None:
    made = train_tokenizer(audio, tmp_path / "tok", settings(), valid=valid)
    tokenizer = load_tokenizer(made.path)
    assert resolve_asset(made.path, "tokenizer") == made.path
    assert (tokenizer.name, tokenizer.num_units) == ("hubert-12", 12)
    sound = speechlike(16000 * 6, 0)
    units = tokenizer.encode(sound[:-7])
    assert len(units) == 150
    assert len(np.unique(units)) > 3
    pieces = list(tokenizer.encode_stream(sound[:-7][first : first + 999] for first in range(0, len(sound) - 7, 999)))
    assert np.array_equal(np.concatenate(pieces), units)
    card = json.loads((made.path / "card.json").read_text())
    assert card["fingerprint"] == tokenizer.fingerprint == made.fingerprints["tokenizer"]
    assert card["steps"] == 3
    assert card["settings"]["targets"] == {"kind": "mfcc"}
    assert {"valid_accuracy", "train_loss", "units_used"} <= set(card["numbers"])
    names = {path.name for path in made.path.iterdir()}
    assert {"network.safetensors", "targets.safetensors", "metrics.jsonl", "tensorboard"} <= names
    assert "work" not in names


def test_the_same_audio_and_seed_give_the_same_bytes(audio: Manifest, tmp_path: Path) -> None:
    first = train_tokenizer(audio, tmp_path / "a", settings())
    second = train_tokenizer(audio, tmp_path / "b", settings())
    for name in ("network.safetensors", "codebook.safetensors", "targets.safetensors", "tokenizer.json"):
        assert first.file(name).read_bytes() == second.file(name).read_bytes()


def test_a_stopped_training_goes_on_to_the_same_bytes(audio: Manifest, tmp_path: Path) -> None:
    undisturbed = train_tokenizer(audio, tmp_path / "a", settings())

    def stop(done: int, total: int, unit: str) -> None:
        if unit == "steps" and done == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingStopped):
        train_tokenizer(audio, tmp_path / "b", settings(), progress=stop)
    assert not (tmp_path / "b").exists()
    resumed = train_tokenizer(audio, tmp_path / "b", settings())
    assert resumed.fingerprints == undisturbed.fingerprints
    for name in ("network.safetensors", "codebook.safetensors"):
        assert resumed.file(name).read_bytes() == undisturbed.file(name).read_bytes()


def test_iteration_1_predicts_the_clusters_of_iteration_0(audio: Manifest, tmp_path: Path) -> None:
    zero = train_tokenizer(audio, tmp_path / "zero", settings())
    place = str(zero.path)
    one = train_tokenizer(audio, tmp_path / "one", settings(targets=place, targets_layer=1, init=place, layer=1))
    card = json.loads((one.path / "card.json").read_text())
    assert card["settings"]["targets"] == {
        "tokenizer": zero.fingerprints["tokenizer"],
        "kind": "fbank-hubert",
        "layer": 1,
    }
    assert place not in json.dumps(card) + (one.path / "manifest.json").read_text()
    assert json.loads((one.path / "tokenizer.json").read_text())["encoder"]["layer"] == 1
    # The same teacher elsewhere is the same teacher.
    shutil.copytree(zero.path, tmp_path / "copy")
    place = str(tmp_path / "copy")
    again = train_tokenizer(audio, tmp_path / "one", settings(targets=place, targets_layer=1, init=place, layer=1))
    assert again.id == one.id


def test_phones_go_into_targets_and_units(audio: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_hubert, "align_phones", phones_by_loudness)
    zero = train_tokenizer(audio, tmp_path / "zero", settings(discriminants=2))
    assert load_tokenizer(zero.path).quantizer.dim == 32
    config = settings(targets=str(zero.path), discriminants=2, phone_weight=5.0)
    one = train_tokenizer(audio, tmp_path / "one", config)
    from lst.units.targets import load_targets

    assert sorted(load_targets(one.file("targets.safetensors")).phones) == ["L", "M", "S"]


def test_units_may_be_what_the_network_predicts(audio: Manifest, tmp_path: Path) -> None:
    made = train_tokenizer(audio, tmp_path / "tok", settings(units_from="prediction"))
    tokenizer = load_tokenizer(made.path)
    assert tokenizer.num_units == 12
    sound = speechlike(16000 * 6, 3)
    network = load_network(made.file("network.safetensors"))
    with torch.inference_mode():
        expected = network.predict(network.features(torch.from_numpy(sound)[None]))[0].argmax(dim=-1)
    assert (tokenizer.encode(sound) == expected.numpy()).mean() > 0.99  # float64 against float32
    with pytest.raises(ValueError, match="takes the last layer"):
        settings(units_from="prediction", layer=1)


def test_units_may_be_what_tells_most_of_the_phone(
    audio: Manifest, valid: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_hubert, "align_phones", phones_by_loudness)
    teacher = train_tokenizer(audio, tmp_path / "teacher", TrainTokenizerConfig(kind="mfcc", units=12, max_frames=1000))
    options: dict[str, Any] = {
        "targets": str(teacher.path),
        "phone_weight": 5.0,
        "silence_clusters": 2,
        "units_from": "phones",
        "head_frames": 400,
        "head_steps": 5,
        "training": {**TRAINING, "phone_loss": 1.0},
    }
    made = train_tokenizer(audio, tmp_path / "tok", settings(**options), valid=valid)
    assert load_tokenizer(made.path).num_units == 12
    last = json.loads(made.file("metrics.jsonl").read_text().splitlines()[-1])
    assert {"loss", "accuracy", "phone_loss", "phone_accuracy"} <= set(last)
    for unfit in ({"phone_weight": 0.0}, {"layer": 1}):
        with pytest.raises(ValueError, match=r"set phone_weight|takes the last layer"):
            settings(**{**options, **unfit})


def test_audio_that_cannot_be_aligned_gives_no_phones(audio: Manifest, tmp_path: Path) -> None:
    with pytest.raises(LstError, match="No utterance could be aligned"):
        train_tokenizer(audio, tmp_path / "tok", settings(discriminants=2))


def test_too_little_audio_is_one_sentence(audio: Manifest, tmp_path: Path) -> None:
    config = settings().model_copy(update={"units": 501})
    with pytest.raises(LstError, match="too little for 501 clusters"):
        train_tokenizer(audio, tmp_path / "tok", config)


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_silent_or_constant_audio_is_one_sentence(tmp_path: Path, value: float) -> None:
    audio = audio_manifest(tmp_path, [np.full(16000 * 6, value, np.float32)] * 3)
    with pytest.raises(LstError, match="silent or constant"):
        train_tokenizer(audio, tmp_path / "tok", settings())


def test_a_training_does_not_start_from_mfcc(audio: Manifest, tmp_path: Path) -> None:
    with pytest.raises(LstError, match="a training cannot start from it"):
        train_tokenizer(audio, tmp_path / "tok", settings(init="mfcc-501"))


def test_the_command_line(audio: Manifest, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"kind": "hubert", "units": 12, "hubert": {"network": NETWORK, "training": TRAINING}}))
    out = tmp_path / "tok"
    arguments = ["train-tokenizer", str(audio.path), "--out", str(out), "--config", str(recipe), "--name", "mine"]
    assert run_lst(*arguments, "hubert.training.steps=2", "hubert.fit_hours=0.01") == 0
    assert load_manifest(out, "lst.tokenizer").config["hubert"]["training"]["steps"] == 2
    assert load_tokenizer(out).name == "mine"
    with pytest.raises(UsageError, match=r"hubert\.trainin"):
        run_lst(*arguments, "hubert.trainin.steps=2")
