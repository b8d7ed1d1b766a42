"""What a model must be able to do before it is worth training: start at chance, reach every weight, learn by heart."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from lst.data.batch import IGNORED, pack_examples
from lst.data.patching import PatchingConfig
from lst.model import TransformerConfig, build_model, preset
from tests.model.support import MODES, VOCABULARY, document, make, tiny_config, tiny_model

VARIANTS: list[dict[str, Any]] = [{}, {"text_local": False, "queries_per_patch": 2}, {"pooling": "mean"}]


def rows(mode: str) -> list[list[Any]]:
    rng = np.random.default_rng(0)
    shapes = [[(10, -4), (-5, 7)], [(13,), (-3,)]]
    return [[make(document(rng, *spans), mode, seed=n) for n, spans in enumerate(row)] for row in shapes]


@pytest.mark.parametrize("mode", ["static", "aligned", "none"])
@pytest.mark.parametrize("changes", VARIANTS, ids=["default", "units", "mean"])
def test_gradients_reach_every_parameter(mode: str, changes: dict[str, Any]) -> None:
    model = build_model(tiny_config(mode, **(changes if mode != "none" else {})))
    model.loss(pack_examples(rows(mode), VOCABULARY)).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("text_local", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_learns_one_batch_by_heart(mode: str, text_local: bool) -> None:
    if mode in ("none", "bpe") and not text_local:
        pytest.skip("no local modules")
    torch.manual_seed(0)
    model = build_model(tiny_config(mode, text_local=text_local)).train()
    batch = pack_examples(rows(mode), VOCABULARY)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(50):
        optimizer.zero_grad()
        out = model.loss(batch)
        out.mean.backward()
        optimizer.step()
    # Not 0: two documents begin alike, so the token after their first marker cannot be known.
    assert model.loss(batch).mean < 0.1


@pytest.mark.parametrize("base", [None, "same-global"])
@pytest.mark.parametrize("changes", [{}, {"tied_heads": True}, {"text_local": False}], ids=["default", "tied", "units"])
def test_initial_loss_is_that_of_guessing(base: Any, changes: dict[str, Any]) -> None:
    config = preset("nano", text_size=4096, base=base)
    if base is not None and "text_local" in changes:
        pytest.skip("no local modules")
    config = config.model_copy(update=changes)
    rng = np.random.default_rng(0)
    vocabulary = config.vocabulary
    tokens = rng.integers(0, vocabulary.text_size, 60).astype(np.int32)
    tokens[10:50] = vocabulary.from_units(rng.integers(0, 501, 40))
    from lst.data.patching import Example, static_patches

    lengths, closed = static_patches(40, 1 if base else 4)
    ones = np.ones(10, dtype=np.int32)
    wanted = np.arange(60) > 0
    item = Example(
        tokens,
        np.concatenate([ones, lengths, ones]),
        np.concatenate([ones > 0, closed, ones > 0]),
        wanted,
        "row",
    )
    batch = pack_examples([[item]], vocabulary)
    for seed in range(3):
        found = build_model(config, seed=seed).loss(batch).mean.item()
        assert abs(found / math.log(vocabulary.size) - 1) < 0.02


def test_large_presets_would_start_at_the_loss_of_guessing_too() -> None:
    """Logits at the start have variance d * std^2, which costs half of it: bounded for any width."""
    from lst.model.init import EMBEDDING_STD

    for dim in (96, 1024, 2048, 4096):
        std = min(EMBEDDING_STD, 0.3 / math.sqrt(dim))
        assert dim * std**2 / 2 < 0.02 * math.log(32_509)


def test_same_seed_same_weights() -> None:
    first, second = (build_model(tiny_config(), seed=3).state_dict() for _ in range(2))
    torch.manual_seed(5)  # the global generator plays no part
    third = build_model(tiny_config(), seed=3).state_dict()
    other = build_model(tiny_config(), seed=4).state_dict()
    assert all(torch.equal(first[name], second[name]) and torch.equal(first[name], third[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_same_batch_same_gradients() -> None:
    found = []
    for _ in range(2):
        model = build_model(tiny_config(), seed=3)
        model.loss(pack_examples(rows("static"), VOCABULARY)).loss.backward()
        found.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_loss_agrees_with_the_logits_and_counts_modalities() -> None:
    model = tiny_model("static")
    batch = pack_examples(rows("static"), VOCABULARY)
    wanted = batch.targets != IGNORED
    with torch.no_grad():
        out, logits = model.loss(batch), model(batch)
    expected = torch.nn.functional.cross_entropy(logits[wanted], batch.targets[wanted], reduction="none")
    torch.testing.assert_close(out.loss, expected.sum())
    units = batch.targets[wanted] >= VOCABULARY.unit_offset
    text = batch.targets[wanted] < VOCABULARY.text_size
    torch.testing.assert_close(out.speech_loss, expected[units].sum())
    torch.testing.assert_close(out.text_loss, expected[text].sum())
    assert (out.count, out.speech_count, out.text_count) == (wanted.sum(), units.sum(), text.sum())
    assert batch.num_targets == wanted.sum()
    assert logits.dtype == torch.float32


def test_a_model_on_the_meta_device_costs_nothing() -> None:
    from lst.model import LST
    from lst.model.flops import parameters

    config = preset("7b", text_size=32_000)
    with torch.device("meta"):
        model = LST(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == sum(parameters(config).values())


def test_bfloat16_autocast_trains() -> None:
    model = build_model(tiny_config())
    batch = pack_examples(rows("static"), VOCABULARY)
    exact = model.loss(batch).mean.item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model.loss(batch)
    out.mean.backward()
    assert abs(out.mean.item() - exact) < 0.02
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_a_whole_model_in_bfloat16_runs() -> None:
    model = build_model(tiny_config("static", decoder=TransformerConfig(layers=1, dim=16, heads=2))).bfloat16()
    out = model.loss(pack_examples(rows("static"), VOCABULARY))
    out.loss.backward()
    assert torch.isfinite(out.loss)


def test_patching_modes_are_the_data_stage_s() -> None:
    assert set(MODES) == set(PatchingConfig.model_fields["mode"].annotation.__args__)  # type: ignore[union-attr]
