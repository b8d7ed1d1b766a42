"""Models on disk: the same model comes back, and anything wrong is said in one sentence."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lst.data.batch import pack_examples
from lst.errors import LstError
from lst.manifest import DirectoryResult, StageSpec, build_directory
from lst.model import TransformerConfig, load_model, write_weights
from lst.model.checkpoint import load_config
from tests.model.support import VOCABULARY, document, make, tiny_config, tiny_model

LOCAL = TransformerConfig(layers=1, dim=16, heads=2)


@pytest.mark.parametrize(
    ("mode", "changes"),
    [("static", {}), ("none", {}), ("static", {"text_local": False}), ("static", {"tied_heads": True})],
)
def test_the_same_model_comes_back(tmp_path: Path, mode: str, changes: dict[str, Any]) -> None:
    if changes.get("tied_heads"):
        changes = {**changes, "encoder": LOCAL, "decoder": LOCAL}
    model = tiny_model(mode, **changes)
    assert write_weights(tmp_path, model, model.config) == ["config.json", "model.safetensors"]
    loaded = load_model(tmp_path)
    assert loaded.config == model.config
    assert loaded.vocabulary == VOCABULARY
    assert not loaded.model.training
    assert loaded.manifest is None
    batch = pack_examples([[make(document(np.random.default_rng(0), 9, -2), mode)]], VOCABULARY)
    with torch.no_grad():
        assert torch.equal(loaded.model(batch), model(batch))
    if changes.get("tied_heads"):
        assert loaded.model.head.weight is loaded.model.embedding.weight
        assert "head.weight" not in load_file(tmp_path / "model.safetensors")
    loaded.model.loss(batch).loss.backward()  # and can be trained on


def test_loading_leaves_the_compiler_alone(tmp_path: Path) -> None:
    model = tiny_model()
    write_weights(tmp_path, model, model.config)
    script = (
        "import sys; from lst.model.checkpoint import load_model; load_model(sys.argv[1]);"
        "print([name for name in ('torch._dynamo', 'torch._inductor', 'sympy.core') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"  # its import takes seconds of every command that loads a model


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        model = tiny_model()
        write_weights(tmp_path / name, model, model.config)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"config.json", "model.safetensors"}


def committed(tmp_path: Path) -> Path:
    model = tiny_model()

    def make_directory(partial: Path) -> DirectoryResult:
        names = write_weights(partial, model, model.config)
        (partial / "tokenizer.model").write_bytes(b"text tokenizer")
        return DirectoryResult(artifacts=[*names, "tokenizer.model"])

    spec = StageSpec(schema="lst.model/1", stage="pretrain", version=1, config={})
    return build_directory(tmp_path / "model", spec, make_directory).path


def test_with_a_manifest(tmp_path: Path) -> None:
    directory = committed(tmp_path)
    loaded = load_model(directory)
    assert loaded.manifest is not None
    assert loaded.tokenizer_path.read_bytes() == b"text tokenizer"


def test_one_flipped_byte_is_noticed(tmp_path: Path) -> None:
    weights = committed(tmp_path) / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(LstError, match="does not match its recorded sha256"):
        load_model(weights.parent)


def written(tmp_path: Path) -> Path:
    model = tiny_model()
    write_weights(tmp_path, model, model.config)
    return tmp_path


def test_a_truncated_file(tmp_path: Path) -> None:
    weights = written(tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(LstError, match=r"model\.safetensors is damaged"):
        load_model(tmp_path)


def test_weights_of_another_configuration(tmp_path: Path) -> None:
    model = tiny_model()
    write_weights(tmp_path, model, tiny_config(global_transformer=TransformerConfig(layers=3, dim=32, heads=4)))
    with pytest.raises(LstError, match=r"missing.*another configuration"):
        load_model(tmp_path)
    write_weights(tmp_path, model, tiny_config(text_size=29))
    with pytest.raises(LstError, match=r"embedding.weight has shape \(50, 16\), the configuration says \(56, 16\)"):
        load_model(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    write_weights(tmp_path, model, model.config)
    save_file({**tensors, "extra": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(LstError, match="unknown extra"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "has format None"),
        ('{"format": "lst-model/9"}', "has format 'lst-model/9', this lst reads 'lst-model/1'"),
        ('{"format": "lst-model/1", "lst": {}}', "text_size: Field required"),
    ],
)
def test_a_damaged_configuration(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(LstError, match=message):
        load_config(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(LstError, match="holds no model"):
        load_model(tmp_path)
    written(tmp_path)
    with pytest.raises(LstError, match=r"holds no tokenizer\.model"):
        _ = load_model(tmp_path).tokenizer_path
    (tmp_path / "tokenizer.model").write_bytes(b"")
    assert load_model(tmp_path).tokenizer_path == tmp_path / "tokenizer.model"
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(LstError, match="no weights"):
        load_model(tmp_path)


def test_the_configuration_is_readable(tmp_path: Path) -> None:
    body = json.loads((written(tmp_path) / "config.json").read_text())
    assert body["format"] == "lst-model/1"
    assert body["lst"]["patching"]["mode"] == "static"
