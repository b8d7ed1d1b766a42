"""Naming words: the loss is what it says, it reaches the model, and a run with it is a run like any other."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from lst.data.batch import PackedBatch, pack_examples
from lst.data.interleaving import DocumentMaker
from lst.data.vocabulary import Vocabulary
from lst.errors import LstError
from lst.manifest import Manifest
from lst.model.checkpoint import load_model
from lst.model.config import LSTConfig
from lst.model.init import build_model
from lst.train.config import WordsConfig
from lst.train.control import TrainingStopped
from lst.train.feed import LossModule, split_losses
from lst.train.options import PretrainOptions, plan_of, settings_of
from lst.train.plan import flops_counter
from lst.train.stage import PretrainConfig, pretrain
from lst.train.words import WordHeads, batch_word_flops, word_counts
from tests.data.synthetic import utterance
from tests.train.test_stages import TINY
from tests.train.toys import toy_model

SHAPES = ("none", "static", "straight")
"""A base model; text through the local modules; text past them, with a head of its own."""


def shape(name: str) -> LSTConfig:
    config = toy_model(50, "none" if name == "none" else "static")
    return config.model_copy(update={"text_local": name != "straight"})


def batch(config: LSTConfig, *, named: bool = True) -> PackedBatch:
    maker = DocumentMaker(Vocabulary(50), config.patching, name_words=named)
    rows = [[maker.utterance("interleaved", utterance(np.random.default_rng(k), 12)).build()] for k in range(3)]
    return pack_examples(rows, config.vocabulary)


def module(config: LSTConfig, **weights: float) -> LossModule:
    model = build_model(config, seed=1)
    return LossModule(model, WordHeads(config, WordsConfig(**weights), seed=2))


@pytest.mark.parametrize("name", SHAPES)
def test_the_loss_is_the_cross_entropy_of_the_words(name: str) -> None:
    config = shape(name)
    packed, trained = batch(config), module(config, ended=0.25, next=2.0)
    assert trained.words is not None
    units, words = split_losses(trained(packed))
    assert words is not None
    plain = trained.lst.loss(packed)
    assert float(units.loss.detach()) == pytest.approx(float(plain.loss.detach()), rel=1e-6)

    states = trained.lst.run(packed, trained.lst.prepare(packed)).outputs
    assert packed.words is not None
    ended, following = packed.words.unbind(-1)
    head = trained.lst.text_head or trained.lst.head
    heard = F.cross_entropy(states[ended >= 0] @ trained.words.ended.weight.T, ended[ended >= 0], reduction="sum")
    coming = F.cross_entropy(
        states[following >= 0] @ trained.words.next.weight.T @ head.weight.T,
        following[following >= 0],
        reduction="sum",
    )
    counts = word_counts(words)
    assert counts["ended_loss"] == pytest.approx(float(heard.detach()), rel=1e-5)
    assert counts["next_loss"] == pytest.approx(float(coming.detach()), rel=1e-5)
    assert (counts["ended_targets"], counts["next_targets"]) == (int((ended >= 0).sum()), int((following >= 0).sum()))
    assert float(words.loss.detach()) == pytest.approx(float((0.25 * heard + 2 * coming).detach()), rel=1e-5)

    words.loss.backward()
    ours = {key: value.grad.clone() for key, value in trained.named_parameters() if value.grad is not None}
    trained.zero_grad()
    (0.25 * heard + 2 * coming).backward()
    theirs = {key: value.grad for key, value in trained.named_parameters() if value.grad is not None}
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-5, msg=key)
    assert any(key.startswith("lst.global_transformer.layers.0.") for key in ours)


@pytest.mark.parametrize("name", SHAPES)
def test_without_words_every_weight_still_has_a_gradient(name: str) -> None:
    """As distributed training needs it: a batch of text only, in one process of several."""
    config = shape(name)
    packed, trained = batch(config, named=False), module(config)
    units, words = split_losses(trained(packed))
    assert words is not None
    (units.loss + words.loss).backward()
    assert trained.words is not None
    for parameter in trained.words.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()
    assert word_counts(words)["ended_targets"] == 0


def test_validation_has_no_words() -> None:
    config = shape("straight")
    trained = module(config).eval()
    with torch.no_grad():
        _, words = split_losses(trained(batch(config)))
    assert words is None


@pytest.mark.parametrize("name", SHAPES)
def test_what_it_costs_is_counted(name: str) -> None:
    config = shape(name)
    packed, plain = batch(config), batch(config, named=False)
    counted = flops_counter(config)(packed) - flops_counter(config)(plain)
    assert counted == batch_word_flops(config, packed) > 0
    heads = module(config)
    assert heads.words is not None
    heads.double()  # so that torch does the products, which it then counts
    states = torch.zeros(*packed.patch_documents.shape, config.global_transformer.dim).double()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        heads.words(heads.lst, states, packed.words)
    assert counted == pytest.approx(3 * counter.get_total_flops(), rel=0.01)


WORDS = {"words": {"ended": 2.0, "next": 1.0}}


def settings(**changes: Any) -> PretrainConfig:
    return settings_of(PretrainConfig, TINY | WORDS | changes, [], "")


@pytest.fixture(scope="module")
def trained(data: tuple[Manifest, Manifest], tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    torch.set_num_threads(1)
    return pretrain(*data, tmp_path_factory.mktemp("words") / "model", settings(budget={"amount": 100}))


def lines(model: Manifest) -> list[dict[str, Any]]:
    return [json.loads(line) for line in model.file("metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_run_learns_to_name_words_and_leaves_the_heads_behind(trained: Manifest) -> None:
    train = [line for line in lines(trained) if line["split"] == "train"]
    assert train[-1]["ended_word_bits"] < 0.5 * train[0]["ended_word_bits"]  # each word has units of its own
    assert train[-1]["next_word_bits"] < train[0]["next_word_bits"]
    assert train[-1]["total"]["next_targets"] > train[-1]["total"]["ended_targets"] > 0
    assert trained.config["words"] == WORDS["words"]
    load_model(trained.path)  # refuses weights that the model has no place for
    assert not [line for line in lines(trained) if line["split"] == "valid" and "ended_word_bits" in line]


def test_settings_without_words_are_what_they_were_before_there_was_that_key() -> None:
    for without in ({}, {"words": None}):
        assert "words" not in settings_of(PretrainConfig, TINY | without, [], "").as_json()


def test_a_stopped_run_goes_on(trained: Manifest, data: tuple[Manifest, Manifest], tmp_path: Path) -> None:
    def stop(done: int, total: int, unit: str) -> None:
        if done == 45:
            os.kill(os.getpid(), signal.SIGTERM)

    config, out = settings(budget={"amount": 100}), tmp_path / "model"
    with pytest.raises(TrainingStopped):
        pretrain(*data, out, config, progress=stop)
    again = pretrain(*data, out, config)
    assert again.id == trained.id
    assert again.fingerprints["model"] == trained.fingerprints["model"]
    totals = [[line["total"] for line in lines(model) if line["split"] == "train"] for model in (again, trained)]
    assert totals[0] == totals[1]
    assert totals[0][-1]["ended_loss"] > 0


def test_a_word_loss_that_is_not_a_number_stops_the_run(
    data: tuple[Manifest, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = WordHeads.forward

    def broken(self: WordHeads, *arguments: Any) -> Any:
        return replace(forward(self, *arguments), next_loss=torch.tensor(float("nan")))

    monkeypatch.setattr(WordHeads, "forward", broken)
    with pytest.raises(LstError, match="The loss of step 1 is nan"):
        pretrain(*data, tmp_path / "model", settings())


def test_what_cannot_name_words() -> None:
    with pytest.raises(ValidationError, match=r"not with patching\.mode bpe"):
        PretrainConfig.model_validate(WORDS | {"patching": {"mode": "bpe"}})
    with pytest.raises(ValidationError, match="without speech"):
        PretrainConfig.model_validate(WORDS | {"mixture": {"speech": 0, "text": 1}})
    with pytest.raises(ValidationError, match="both 0"):
        PretrainConfig.model_validate({"words": {"ended": 0, "next": 0}})


def test_the_plan_counts_them() -> None:
    plain, named = (
        plan_of(PretrainOptions(None, None, settings_of(PretrainConfig, body, [], ""))) for body in (TINY, TINY | WORDS)
    )
    assert named["flops_per_step"] > plain["flops_per_step"]
    assert named["parameters"] == plain["parameters"]
