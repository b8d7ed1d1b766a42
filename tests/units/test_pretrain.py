"""Masked prediction: it learns, and a run that was stopped, killed or damaged ends with the same bits."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lst.errors import LstError
from lst.train.control import TrainingStopped
from lst.units.hubert_config import NetworkConfig, PretrainConfig
from lst.units.network import HubertNetwork, save_network
from lst.units.pretrain import CHECKPOINT, METRICS, PREVIOUS, learning_rate, pretrain
from lst.units.segments import Corpus
from tests.units.tiny import speechlike

NETWORK = NetworkConfig(mel_bands=16, dim=32, layers=2, heads=2, ffn_dim=48, pos_kernel=8, pos_groups=4, clusters=8)
CONFIG = PretrainConfig(steps=6, frames=400, lr=3e-3, warmup_steps=2, log_every=2, validate_every=3)


def corpus(frames: int = 1000) -> Corpus:
    """Tones whose pitch tells the target."""
    targets = np.repeat(np.random.default_rng(0).integers(0, 8, frames // 5), 5).astype(np.int16)
    phase = np.cumsum(np.repeat(0.1 + 0.25 * targets, 640))
    audio = (6000 * np.sin(phase) + 500 * speechlike(640 * frames)).astype(np.int16).reshape(frames, 640)
    half = np.array([frames // 2])
    return Corpus(audio, targets, np.concatenate([[0], half]), np.concatenate([half, half]), targets // 2)


def weights(network: HubertNetwork) -> torch.Tensor:
    return torch.cat([value.reshape(-1) for value in network.state_dict().values()])


def lines(directory: Path) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (directory / METRICS).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


def test_codecs_are_heard_and_a_run_with_them_repeats(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"codec": 0.5})
    first = pretrain(tmp_path / "a", corpus(), None, NETWORK, config)
    again = pretrain(tmp_path / "b", corpus(), None, NETWORK, config)
    without = pretrain(tmp_path / "c", corpus(), None, NETWORK, CONFIG)
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(without))


def test_it_learns(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"steps": 80, "log_every": 10, "lr": 5e-3, "disturb": False})
    network = pretrain(tmp_path, corpus(), corpus(), NETWORK, config)
    found = lines(tmp_path)
    assert found[-1]["split"] == "valid"
    assert found[-1]["accuracy"] > 0.6
    losses = [line["loss"] for line in found if line["split"] == "train"]
    assert losses[-1] < 0.7 * losses[0]
    assert not network.training
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_a_stopped_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    undisturbed = pretrain(tmp_path / "a", corpus(), corpus(), NETWORK, CONFIG)

    def stop(done: int, total: int, unit: str) -> None:
        if done == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingStopped, match="Stopped after step 3 of 6"):
        pretrain(tmp_path / "b", corpus(), corpus(), NETWORK, CONFIG, progress=stop)
    resumed = pretrain(tmp_path / "b", corpus(), corpus(), NETWORK, CONFIG)
    assert torch.equal(weights(undisturbed), weights(resumed))
    assert lines(tmp_path / "a") == lines(tmp_path / "b")


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_after_a_kill_the_last_whole_checkpoint_is_used(tmp_path: Path, damage: str) -> None:
    config = CONFIG.model_copy(update={"checkpoint_seconds": 1e-9})
    undisturbed = pretrain(tmp_path / "a", corpus(), None, NETWORK, config)
    with pytest.raises(KeyboardInterrupt):
        pretrain(tmp_path / "b", corpus(), None, NETWORK, config, progress=_die_at(5))
    newest = tmp_path / "b" / CHECKPOINT
    assert (tmp_path / "b" / PREVIOUS).exists()
    if damage == "cut":
        newest.write_bytes(newest.read_bytes()[:5000])
    else:
        newest.unlink()
    resumed = pretrain(tmp_path / "b", corpus(), None, NETWORK, config)
    assert torch.equal(weights(undisturbed), weights(resumed))
    assert lines(tmp_path / "a") == lines(tmp_path / "b")


def _die_at(step: int) -> object:
    def die(done: int, total: int, unit: str) -> None:
        if done == step:
            raise KeyboardInterrupt

    return die


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    pretrain(tmp_path, corpus(), None, NETWORK, CONFIG.model_copy(update={"steps": 1}))
    with pytest.raises(LstError, match="another size"):
        pretrain(tmp_path, corpus(), None, NETWORK.model_copy(update={"layers": 1}), CONFIG)


def test_a_longer_run_repeats_the_beginning_of_a_shorter_one() -> None:
    short, long = CONFIG.model_copy(update={"steps": 100}), CONFIG.model_copy(update={"steps": 1000})
    assert [learning_rate(short, step) for step in range(50)] == [learning_rate(long, step) for step in range(50)]
    assert learning_rate(long, 999) < 0.01 * learning_rate(long, 500)


def test_training_may_start_from_other_weights(tmp_path: Path) -> None:
    start = HubertNetwork(NETWORK.model_copy(update={"clusters": 5}))
    save_network(tmp_path / "start.safetensors", start)
    none = CONFIG.model_copy(update={"steps": 1, "lr": 1e-12, "weight_decay": 0.0})
    network = pretrain(tmp_path / "run", corpus(), None, NETWORK, none, init=tmp_path / "start.safetensors")
    assert torch.allclose(network.final_proj.weight, start.final_proj.weight)
    other = NETWORK.model_copy(update={"dim": 16})
    with pytest.raises(LstError, match="has other sizes"):
        pretrain(tmp_path / "other", corpus(), None, other, none, init=tmp_path / "start.safetensors")


def test_layers_and_detail_that_are_added_begin_as_nothing(tmp_path: Path) -> None:
    torch.manual_seed(3)
    start = HubertNetwork(NETWORK).eval()
    save_network(tmp_path / "start.safetensors", start)
    none = CONFIG.model_copy(update={"steps": 1, "lr": 1e-12, "weight_decay": 0.0})
    larger = NETWORK.model_copy(update={"layers": 3, "detail_channels": 4})
    network = pretrain(tmp_path / "run", corpus(), None, larger, none, init=tmp_path / "start.safetensors")
    sound = torch.from_numpy(speechlike(640 * 20))[None]
    assert torch.allclose(network.features(sound), start.features(sound), atol=1e-4)


def test_phones_are_learned_where_the_clusters_are_not_known(tmp_path: Path) -> None:
    known = corpus()
    unknown = replace(known, targets=np.full_like(known.targets, -1))
    config = CONFIG.model_copy(update={"steps": 80, "lr": 5e-3, "disturb": False, "phone_loss": 1.0, "log_every": 80})
    pretrain(tmp_path, unknown, known, NETWORK, config, cluster_phones=np.arange(8) // 2)
    last = lines(tmp_path)[-1]
    assert last["phone_accuracy"] > 0.6
    assert last["accuracy"] < last["phone_accuracy"]


def test_a_loss_that_is_no_number_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(LstError, match="is not a number"):
        pretrain(tmp_path, corpus(), None, NETWORK, CONFIG.model_copy(update={"lr": 1e30, "warmup_steps": 0}))
