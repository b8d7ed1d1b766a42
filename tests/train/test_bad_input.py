"""What cannot be trained is said in a sentence, before any work. (Running out of disk, of processes and of numbers:
`test_engine`, `test_processes`; contradictory shapes: `tests/model/test_config`.)"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lst.data.vocabulary import Vocabulary
from lst.errors import LstError
from lst.manifest import DirectoryResult, Manifest, ShardResult, StageSpec, build_directory, build_shards
from lst.model.checkpoint import write_weights
from lst.model.init import build_model
from lst.train.finetune import FinetuneConfig, finetune
from lst.train.optimizer import build_optimizer
from lst.train.options import settings_of
from lst.train.shards import load_model_pieces, load_optimizer_pieces, model_pieces, optimizer_pieces
from lst.train.stage import PretrainConfig, pretrain, pretrain_spec
from tests.train.test_stages import TINY
from tests.train.toys import PairsWorker, tokenizer_model, toy_model


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": {"overrides": {"decoder": {"window": 0}}}}, "window"),
        ({"model": {"overrides": {"encoder": {"heads": 7}}}}, "7 heads do not divide dim 96"),
        ({"model": {"overrides": {"global_transformer": {"kv_heads": 4}}}}, "kv_heads 4 does not divide heads 6"),
        ({"model": {"overrides": {"tied_heads": True, "text_local": False}}}, "different vocabularies"),
        ({"patching": {"mode": "curriculum", "tau1": 0.5, "tau2": 0.2}}, "the curriculum ends after it starts"),
        (
            {"patching": {"mode": "none"}, "model": {"overrides": {"encoder": {"layers": 1, "dim": 8, "heads": 2}}}},
            "none",
        ),
        ({"patching": {"size": 0}}, "patching.size"),
        ({"mixture": {"speech": -1}}, "mixture.speech"),
        ({"spans": {"min_text_words": 9, "max_text_words": 3}}, "max_text_words"),
        ({"unit_bpe_size": 100}, "unit_bpe_size"),
        ({"budget": {"amount": 0}}, "budget.amount"),
        ({"parallel": "tp"}, "parallel"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_contradictory_settings(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(LstError) as caught:
        settings_of(PretrainConfig, settings, [], "run.yaml")
    assert said in str(caught.value)
    assert str(caught.value).startswith("run.yaml: ")


def test_data_without_alignments(data: tuple[Manifest, Manifest], tmp_path: Path) -> None:
    units = build_shards(
        tmp_path / "units", StageSpec("lst.units/1", "tokenize-audio", 1, {}), [0], lambda _: ShardResult([])
    )
    with pytest.raises(LstError, match=r"holds lst\.units/1, but lst\.pairs is needed here.*lst align"):
        pretrain_spec(units, data[1], PretrainConfig())

    def silent(shard: int) -> ShardResult:
        rows = [
            row | {"words": [], "tokens": [], "token_spans": []} for row in PairsWorker(tokenizer_model(), 8)(0).rows
        ]  # type: ignore[operator]
        return ShardResult(rows, totals={"words": 0.0})

    spec = StageSpec("lst.pairs/1", "interleave", 1, {}, fingerprints=dict(data[0].fingerprints))
    pairs = build_shards(tmp_path / "pairs", spec, [0], silent, artifacts={"tokenizer.model": tokenizer_model()})
    for mode in ("aligned", "mixed", "curriculum"):
        config = settings_of(PretrainConfig, TINY | {"patching": {"mode": mode}}, [], "")
        with pytest.raises(LstError, match=f"patching.mode is {mode}, but no word of .* is aligned"):
            pretrain(pairs, data[1], tmp_path / "model", config)
    config = settings_of(PretrainConfig, TINY | {"patching": {"mode": "static"}, "words": {}}, [], "")
    with pytest.raises(LstError, match=r"words asks for the words of .*, of which none is aligned"):
        pretrain(pairs, data[1], tmp_path / "model", config)


def test_pairs_and_text_of_different_tokenizers(data: tuple[Manifest, Manifest], tmp_path: Path) -> None:
    prints = dict(data[0].fingerprints) | {"text_tokenizer": "another"}
    other = build_shards(
        tmp_path / "pairs",
        StageSpec("lst.pairs/1", "interleave", 1, {}, fingerprints=prints),
        [0],
        PairsWorker(tokenizer_model(), 8),
        artifacts={"tokenizer.model": tokenizer_model()},
    )
    with pytest.raises(LstError, match=r"The text tokenizers of .* differ"):
        pretrain(other, data[1], tmp_path / "model", settings_of(PretrainConfig, TINY, [], ""))


def test_a_vocabulary_larger_than_the_head(data: tuple[Manifest, Manifest], tmp_path: Path) -> None:
    small = toy_model(text_size=11)

    def make(directory: Path) -> DirectoryResult:
        names = write_weights(directory, build_model(small), small)
        (directory / "tokenizer.model").write_bytes(tokenizer_model())
        return DirectoryResult([*names, "tokenizer.model"])

    spec = StageSpec("lst.model/1", "pretrain", 1, {}, fingerprints=dict(data[0].fingerprints))
    model = build_directory(tmp_path / "model", spec, make)
    with pytest.raises(LstError, match=r"text pieces, the model's head 11\. Make the data with"):
        finetune(model, data[0], tmp_path / "asr", FinetuneConfig(task="asr"))
    with pytest.raises(LstError, match="Unit 501 lies outside the vocabulary of 501 units"):
        Vocabulary(11).from_units(np.array([501], dtype=np.uint16))


def test_a_checkpoint_of_another_configuration() -> None:
    small, large = nn.Linear(3, 4), nn.Linear(3, 5)
    with pytest.raises(LstError, match=r"weight has shape \[4, 3\], the model's \[5, 3\]"):
        load_model_pieces(large, [model_pieces(small)])


def test_pieces_of_a_lost_process_are_missed() -> None:
    """Half of the rows, as one of two processes would have written them."""
    whole, half = nn.Linear(3, 4), {}
    for name, piece in model_pieces(whole).items():
        half[name] = piece | {"rows": piece["rows"][:2]}
    with pytest.raises(LstError, match="holds 2 of the 4 rows of weight"):
        load_model_pieces(nn.Linear(3, 4), [half])
    rest = {name: piece | {"rows": piece["rows"][2:], "first": 2} for name, piece in model_pieces(whole).items()}
    other = nn.Linear(3, 4)
    load_model_pieces(other, [rest, half])
    assert torch.equal(other.weight, whole.weight)


def test_the_optimiser_goes_on_from_pieces() -> None:
    from lst.train.config import OptimizerConfig

    settings = OptimizerConfig()  # type: ignore[call-arg]
    modules = [nn.Linear(3, 4), nn.Linear(3, 4)]
    modules[1].load_state_dict(modules[0].state_dict())
    first, second = (build_optimizer(module, settings) for module in modules)

    def step(module: nn.Module, optimizer: torch.optim.Optimizer, value: float) -> None:
        optimizer.zero_grad()
        (module(torch.full((2, 3), value)) ** 2).sum().backward()
        optimizer.step()

    step(modules[0], first, 1.0)
    load_model_pieces(modules[1], [model_pieces(modules[0])])
    load_optimizer_pieces(second, [optimizer_pieces(first)])
    for module, optimizer in zip(modules, (first, second), strict=True):
        step(module, optimizer, 2.0)
    assert torch.equal(modules[0].weight, modules[1].weight)
    assert torch.equal(modules[0].bias, modules[1].bias)
