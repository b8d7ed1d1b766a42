"""Text models of Llama's architecture: copied in, they compute what transformers computes; base models come out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lst.data.batch import pack_examples
from lst.errors import LstError
from lst.model import TransformerConfig, build_model
from lst.model.llama import check_shape, fingerprint, global_shape, llama_files, warm_start
from tests.model.support import VOCABULARY, static_example, tiny_config

PIECES = VOCABULARY.text_size


def llama(directory: Path, *, shards: int = 1, tied: bool = False, **changes: Any) -> Any:
    """A small Llama with random weights, saved by transformers; as many files as `shards` asks for."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "vocab_size": PIECES,
        "hidden_size": 32,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_theta": 5e4,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied,
    }
    model = LlamaForCausalLM(LlamaConfig(**settings | changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(directory, max_shard_size="5GB" if shards == 1 else "40KB")
    assert (len(list(directory.glob("*.safetensors"))) > 1) == (shards > 1)
    return model


def ours(directory: Path, mode: str = "none", **changes: Any) -> Any:
    return build_model(tiny_config(mode, global_transformer=global_shape(directory), **changes), seed=1).eval()


@pytest.mark.parametrize(("shards", "tied"), [(1, False), (3, False), (1, True)])
def test_a_base_model_begins_as_the_text_model(tmp_path: Path, shards: int, tied: bool) -> None:
    text_model = llama(tmp_path, shards=shards, tied=tied)
    model = ours(tmp_path)
    before = model.embedding.weight[PIECES:].clone()
    copied = warm_start(model, tmp_path)
    assert set(copied) == {name for name, _ in model.named_parameters()}
    assert torch.equal(model.embedding.weight[PIECES:], before)  # controls and units keep their start
    tokens = np.random.default_rng(0).integers(0, PIECES, 40).astype(np.int32)
    with torch.no_grad():
        expected = text_model(torch.from_numpy(tokens).long()[None]).logits[0]
        found = model(pack_examples([[static_example(tokens, 1)]], VOCABULARY))[0, :, :PIECES]
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_text_goes_straight_through_an_lst_as_through_the_text_model(tmp_path: Path) -> None:
    text_model = llama(tmp_path)
    model = ours(tmp_path, "static", text_local=False)
    copied = warm_start(model, tmp_path)
    assert {"text_embedding.weight", "text_head.weight"} < set(copied)
    assert not any(name.startswith(("encoder", "decoder")) for name in copied)
    tokens = np.random.default_rng(0).integers(0, PIECES, 40).astype(np.int32)
    with torch.no_grad():
        expected = text_model(torch.from_numpy(tokens).long()[None]).logits[0]
        found = model(pack_examples([[static_example(tokens, 4)]], VOCABULARY))[0, :, :PIECES]
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_where_text_passes_the_local_modules_only_the_layers_are_copied(tmp_path: Path, caplog: Any) -> None:
    llama(tmp_path)
    model = ours(tmp_path, "static")
    copied = warm_start(model, tmp_path)
    assert {name.split(".")[0] for name in copied} == {"global_transformer"}
    assert len(copied) == 3 * 6 + 1
    assert "text passes through the local modules" in caplog.text


def test_another_tokenizer_leaves_the_tables_alone(tmp_path: Path, caplog: Any) -> None:
    llama(tmp_path, vocab_size=PIECES + 9)
    assert "embedding.weight" not in warm_start(ours(tmp_path), tmp_path)
    assert f"it has {PIECES + 9} pieces, we {PIECES}" in caplog.text


def test_another_shape_is_refused_with_the_setting_that_helps(tmp_path: Path) -> None:
    llama(tmp_path)
    model = build_model(tiny_config("none", global_transformer=TransformerConfig(layers=2, dim=32, heads=4)))
    with pytest.raises(LstError, match=r"layers 2 \(there 3\).*num_kv_heads 4 \(there 2\)") as caught:
        warm_start(model, tmp_path)
    assert caught.value.hint is not None
    overrides = json.loads(caught.value.hint.removeprefix("Set model.overrides to ").removesuffix("."))
    check_shape(tmp_path, tiny_config("none", **overrides | {"global_transformer": overrides["global_transformer"]}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling"),
        ({"head_dim": 16}, "head_dim is 16"),
    ],
)
def test_other_architectures_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    llama(tmp_path)
    body = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(body | changes))
    with pytest.raises(LstError, match=message):
        global_shape(tmp_path)


def test_damaged_and_dangerous_files(tmp_path: Path) -> None:
    llama(tmp_path, shards=3)
    before = fingerprint(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    body = json.loads(index.read_text())
    part = tmp_path / sorted(set(body["weight_map"].values()))[0]
    part.write_bytes(part.read_bytes()[:-9])
    assert fingerprint(tmp_path) != before
    with pytest.raises(LstError, match="is damaged"):
        warm_start(ours(tmp_path), tmp_path)
    part.unlink()
    with pytest.raises(LstError, match="is missing"):
        warm_start(ours(tmp_path), tmp_path)
    body["weight_map"]["lm_head.weight"] = "../outside.safetensors"
    index.write_text(json.dumps(body))
    with pytest.raises(LstError, match="leaves"):
        warm_start(ours(tmp_path), tmp_path)
    index.unlink()
    save_file({"model.norm.weight": torch.ones(32)}, tmp_path / "model.safetensors")
    with pytest.raises(LstError, match=r"holds no model\.layers\.0"):
        warm_start(ours(tmp_path), tmp_path)


def test_a_base_model_is_a_llama_model_again(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    llama(tmp_path / "text")
    model = ours(tmp_path / "text")
    warm_start(model, tmp_path / "text")
    body, tensors = llama_files(model)
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text(json.dumps(body))
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    loaded = LlamaForCausalLM.from_pretrained(out).eval()
    tokens = np.random.default_rng(0).integers(0, VOCABULARY.size, 30).astype(np.int32)
    with torch.no_grad():
        expected = model(pack_examples([[static_example(tokens, 1)]], VOCABULARY))[0]
        found = loaded(torch.from_numpy(tokens).long()[None]).logits[0]
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    original = load_file(tmp_path / "text" / "model.safetensors")
    assert all(torch.equal(tensors[name], value) for name, value in original.items() if "layers" in name)
    with pytest.raises(LstError, match="has local modules"):
        llama_files(ours(tmp_path / "text", "static"))
