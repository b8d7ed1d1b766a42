"""Configurations: what is refused and how, presets, and base models."""

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from lst.data.patching import PatchingConfig
from lst.errors import UsageError
from lst.model import PRESETS, LSTConfig, TransformerConfig, preset
from lst.model.flops import mixture_counts, parameters, training_flops
from tests.model.support import tiny_config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "5 heads do not divide dim 64"),
        ({"heads": 64}, "even head width"),
        ({"kv_heads": 3}, "kv_heads 3 does not divide heads 4"),
        ({"window": 0}, "window"),
        ({"layers": 0}, "layers"),
        ({"wndow": 3}, "wndow"),
    ],
)
def test_impossible_stacks_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TransformerConfig(**{"layers": 2, "dim": 64, "heads": 4, **changes})


@pytest.mark.parametrize(
    ("mode", "changes", "message"),
    [
        ("none", {"encoder": TransformerConfig(layers=1, dim=8, heads=2)}, "has no local modules"),
        ("static", {"decoder": None}, "needs both an encoder and a decoder"),
        ("static", {"tied_heads": True}, "tied_heads needs equal widths"),
        ("static", {"text_size": 0}, "text_size"),
        ("none", {"global_transformer": TransformerConfig(layers=1, dim=8, heads=2, window=3)}, "sees its whole"),
    ],
)
def test_contradictory_models_are_refused(mode: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        tiny_config(mode, **changes)


def test_tied_heads_need_one_vocabulary() -> None:
    local = TransformerConfig(layers=1, dim=16, heads=2)
    with pytest.raises(ValidationError, match="different vocabularies"):
        tiny_config("static", encoder=local, decoder=local, tied_heads=True, text_local=False)


def test_curriculum_must_not_end_before_it_starts() -> None:
    with pytest.raises(ValidationError, match="tau2"):
        PatchingConfig(mode="curriculum", tau1=0.6, tau2=0.3)


def test_heads_hint_names_a_number_that_works() -> None:
    with pytest.raises(ValidationError, match="for example 4 heads"):
        TransformerConfig(layers=1, dim=64, heads=5)


def test_a_configuration_survives_json() -> None:
    config = preset("1.1b", text_size=32_000, patching=PatchingConfig(mode="curriculum", size=6))
    assert LSTConfig.model_validate_json(config.model_dump_json()) == config


def test_feed_forward_width_is_that_of_llama() -> None:
    assert TransformerConfig(layers=1, dim=4096, heads=32, ffn_multiple=11008 / 4096).ffn_hidden == 11008
    assert TransformerConfig(layers=1, dim=96, heads=3).ffn_hidden == 256


def test_the_papers_1b() -> None:
    config = preset("1.1b", text_size=32_000)
    encoder, wide, decoder = config.encoder, config.global_transformer, config.decoder
    assert encoder is not None
    assert decoder is not None
    assert (encoder.layers, encoder.dim, encoder.heads, encoder.window) == (1, 1024, 16, 512)
    assert (wide.layers, wide.dim, wide.heads, wide.rope_theta) == (25, 2048, 16, 5e5)
    assert (decoder.layers, decoder.dim, decoder.heads, decoder.window) == (9, 1024, 16, 512)
    assert config.patching.size == 4


@pytest.mark.parametrize("name", PRESETS)
def test_presets_and_their_bases(name: str) -> None:
    config = preset(name, text_size=4096 if name in ("nano", "mini", "micro") else 32_000)
    same = preset(name, text_size=config.text_size, base="same-global")
    matched = preset(name, text_size=config.text_size, base="matched")
    assert same.is_base
    assert matched.is_base
    assert not config.is_base
    assert same.global_transformer == config.global_transformer
    cost = training_flops(config, mixture_counts(config))
    assert training_flops(same, mixture_counts(same)) < cost
    assert abs(training_flops(matched, mixture_counts(matched)) / cost - 1) < 0.02
    counts = parameters(config)
    assert counts["global_transformer"] > 0.6 * sum(counts.values())


def test_sizes_grow_and_hold_what_they_say() -> None:
    sizes = {name: parameters(preset(name, text_size=32_000))["global_transformer"] for name in PRESETS}
    assert list(sizes.values()) == sorted(sizes.values())
    for name, millions in {"420m": 420, "630m": 630, "810m": 810, "1.4b": 1400, "1.8b": 1800}.items():
        assert abs(sizes[name] / millions / 1e6 - 1) < 0.03, name
    nano = sum(parameters(preset("nano", text_size=4096)).values())
    assert 2e6 < nano < 4.2e6


def test_patching_none_asks_for_a_base_model() -> None:
    assert preset("nano", text_size=100, patching=PatchingConfig(mode="none")).is_base
    assert preset("nano", text_size=100, num_units=1000, patching=PatchingConfig(mode="bpe")).num_units == 1000


def test_unknown_names_are_explained() -> None:
    with pytest.raises(UsageError, match="Presets: nano, mini, micro"):
        preset("pico", text_size=100)
    with pytest.raises(UsageError, match="Variants: same-global, matched"):
        preset("nano", text_size=100, base="other")  # type: ignore[arg-type]


def test_configurations_load_no_torch() -> None:
    code = (
        "import sys; from lst.model import preset, PRESETS; from lst.model.plan import plan_training;"
        "[plan_training(preset(n, text_size=100, base=b)) for n in PRESETS for b in (None, 'matched')];"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
