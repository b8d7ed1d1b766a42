"""Tokenizers by name and path: recognition, fingerprints, and what is refused."""

import argparse
import json
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import torch

from lst.errors import LstError
from lst.units import identify_tokenizer, load_tokenizer, tokenizer_fingerprint, tokenizer_name
from lst.units.checkpoints import parse_conv_layers, read_fairseq, read_huggingface
from lst.units.spec import TokenizerSpec, WindowSpec, read_spec
from tests.units.tiny import (
    STEM,
    codebook,
    fairseq_configs,
    fairseq_weights,
    linear_quantizer,
    save_huggingface,
    save_spirit_lm,
    speechlike,
    tiny_hubert,
)

AUDIO = speechlike(16000)

EMBEDDED_UNITS = [
    127,
    216,
    143,
    127,
    471,
    156,
    339,
    81,
    275,
    29,
    491,
    273,
    127,
    116,
    471,
    375,
    471,
    448,
    201,
    427,
    170,
    384,
    375,
    471,
    388,
]
"""What mfcc-501 makes of AUDIO."""


def write_spec(directory: Path, **changes: object) -> None:
    content = {
        "name": "mine",
        "encoder": {"kind": "hubert", "weights": "mhubert_base_25hz.pt", "layer": 2},
        "quantizer": {"weights": "L2_quantizer_500.pt"},
        **changes,
    }
    (directory / "tokenizer.json").write_text(json.dumps(content))


@pytest.fixture
def spirit(tmp_path: Path) -> Path:
    return save_spirit_lm(tiny_hubert(), tmp_path / "spirit")


def test_the_embedded_tokenizer_is_what_its_card_says() -> None:
    import lst.assets

    tokenizer = load_tokenizer("mfcc-501")
    card = lst.assets.read_card(Path(lst.assets.__file__).parent / "embedded" / "mfcc-501" / "card.json")
    assert tokenizer.fingerprint == tokenizer_fingerprint("mfcc") == card.fingerprint
    assert (tokenizer.name, tokenizer.num_units) == ("mfcc-501", 501)
    units = tokenizer.encode(AUDIO)
    # Frozen: other units for the same audio need another version of the encoder kind.
    assert units.tolist() == EMBEDDED_UNITS


def test_spirit_lm_directory_is_recognised_by_its_file_names(spirit: Path) -> None:
    spec = read_spec(spirit)
    assert spec.encoder.model_dump() == {
        "kind": "hubert",
        "weights": "mhubert_base_25hz.pt",
        "config": None,
        "preprocessor": None,
        "layer": 2,
        "normalize": None,
    }
    tokenizer = load_tokenizer(spirit)
    units = tokenizer.encode(AUDIO)
    assert len(units) == tokenizer.num_frames(16000) == 24
    assert units.max() < 500  # no blank stays in a recording with a unit
    assert tokenizer_name(spirit) == identify_tokenizer(spirit).spec.name == "spirit"


def test_hugging_face_directory_is_recognised(tmp_path: Path) -> None:
    directory = save_huggingface(tiny_hubert(), tmp_path / "hf", normalize=True)
    spec = read_spec(directory)
    assert spec.files() == {
        "encoder.weights": "model.safetensors",
        "encoder.config": "config.json",
        "encoder.preprocessor": "preprocessor_config.json",
        "quantizer": "L2_km500.npy",
    }
    assert load_tokenizer(directory).num_units == 500


def test_both_forms_give_the_same_units(tmp_path: Path) -> None:
    model = tiny_hubert()
    spirit = save_spirit_lm(model, tmp_path / "a")
    os.remove(spirit / "L2_quantizer_500.pt")
    np.save(spirit / "L2_km500.npy", codebook(500, 32))
    huggingface = save_huggingface(model, tmp_path / "b")
    assert load_tokenizer(spirit).encode(AUDIO).tolist() == load_tokenizer(huggingface).encode(AUDIO).tolist()


def test_fingerprint_follows_contents_not_names(spirit: Path, tmp_path: Path) -> None:
    first = tokenizer_fingerprint(spirit)
    write_spec(spirit, name="another name")
    assert tokenizer_fingerprint(spirit) == first
    moved = spirit.rename(tmp_path / "elsewhere")
    (moved / "mhubert_base_25hz.pt").rename(moved / "model.pt")
    write_spec(moved, encoder={"kind": "hubert", "weights": "model.pt", "layer": 2})
    assert tokenizer_fingerprint(moved) == first == load_tokenizer(moved).fingerprint
    seen = {first}
    for change in (
        {"encoder": {"kind": "hubert", "weights": "model.pt", "layer": 1}},
        {"encoder": {"kind": "hubert", "weights": "model.pt", "layer": 2, "normalize": True}},
        {"encoder": {"kind": "hubert", "weights": "model.pt", "layer": 2}, "windows": {"length_s": 50, "overlap_s": 8}},
    ):
        write_spec(moved, **change)
        seen.add(tokenizer_fingerprint(moved))
    write_spec(moved, encoder={"kind": "hubert", "weights": "model.pt", "layer": 2})
    torch.save(linear_quantizer(blank_bias=1.0), moved / "L2_quantizer_500.pt")
    seen.add(tokenizer_fingerprint(moved))
    assert len(seen) == 5


def test_fingerprint_needs_no_torch() -> None:
    code = "import sys, lst.units as u; print(u.tokenizer_fingerprint('mfcc-501'), 'torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == [tokenizer_fingerprint("mfcc-501"), "False"]


def test_a_50_hz_hubert_is_refused_with_its_stride(tmp_path: Path) -> None:
    model = tiny_hubert(stem=STEM)
    for directory in (save_spirit_lm(model, tmp_path / "a"), save_huggingface(model, tmp_path / "b")):
        with pytest.raises(LstError, match=r"total stride of 320 samples \(50 units/s\), but lst needs 640") as caught:
            load_tokenizer(directory)
        assert "25 Hz checkpoint" in caught.value.hint


def test_quantizer_of_another_encoder_is_refused(tmp_path: Path) -> None:
    directory = save_spirit_lm(tiny_hubert(), tmp_path / "a", quantizer=linear_quantizer(dim=48))
    with pytest.raises(LstError, match=r"features of 32 dimensions, but the quantizer L2_quantizer_500\.pt takes 48"):
        load_tokenizer(directory)


def test_more_units_than_ids_are_refused(tmp_path: Path) -> None:
    directory = save_huggingface(tiny_hubert(), tmp_path / "hf")
    np.save(directory / "L2_km500.npy", codebook(1000, 32))
    with pytest.raises(LstError, match="has 1000 units, but lst keeps ids 0 to 500"):
        load_tokenizer(directory)


class Malice:
    """Runs a command when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (f"touch {self.target}",))


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, spirit: Path) -> None:
    target = tmp_path / "touched"
    path = spirit / "mhubert_base_25hz.pt"
    content = torch.load(path, weights_only=True)
    torch.save({**content, "task_state": Malice(target)}, path)
    with pytest.raises(LstError, match=r"refers to posix\.system.*runs no code"):
        load_tokenizer(spirit)
    directory = save_huggingface(tiny_hubert(), tmp_path / "hf", safe=False)
    torch.save({"x": Malice(target)}, directory / "pytorch_model.bin")
    with pytest.raises(LstError, match="runs no code"):
        load_tokenizer(directory)
    assert not target.exists()


@pytest.fixture
def fake_fairseq() -> Iterator[types.ModuleType]:
    """A module whose classes pickle under fairseq's names; gone again before anything is loaded."""
    module = types.ModuleType("fairseq.data.dictionary")

    class Dictionary:
        def __init__(self) -> None:
            self.symbols = ["<s>", "0"]

    class Mode(Enum):
        default = "default"

    for kind in (Dictionary, Mode):
        kind.__module__, kind.__qualname__ = module.__name__, kind.__name__
        setattr(module, kind.__name__, kind)
    names = ("fairseq", "fairseq.data", "fairseq.data.dictionary")
    for name in names:
        sys.modules[name] = module
    yield module
    for name in names:
        sys.modules.pop(name, None)


def test_fairseq_checkpoint_with_its_own_objects_loads_without_fairseq(
    tmp_path: Path, spirit: Path, fake_fairseq: types.ModuleType
) -> None:
    """TWIST's original form: cfg.model, cfg.task, model, and a task state of fairseq classes."""
    model = tiny_hubert()
    model_cfg, task_cfg = fairseq_configs(model, normalize=False)
    model_cfg["extractor_mode"] = fake_fairseq.Mode.default
    content = {
        "args": None,
        "cfg": {"model": argparse.Namespace(**model_cfg), "task": task_cfg},
        "model": fairseq_weights(model),
        "task_state": {"dictionaries": [fake_fairseq.Dictionary()]},
    }
    path = tmp_path / "mhubert.pt"
    torch.save(content, path)
    for name in ("fairseq", "fairseq.data", "fairseq.data.dictionary"):
        del sys.modules[name]
    found, expected = read_fairseq(path), read_fairseq(spirit / "mhubert_base_25hz.pt")
    assert found.architecture == expected.architecture
    assert all(torch.equal(found.weights[name], expected.weights[name]) for name in expected.weights)
    assert "fairseq" not in sys.modules


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_cfg": {"layer_type": "conformer"}}, "Conformer layers"),
        ({"model_cfg": {"activation_fn": "relu"}}, "an activation other than GELU"),
        ({"model_cfg": {"conv_pos_batch_norm": True}}, "batch norm in its position encoder"),
        ({"model_cfg": {"encoder_ffn_embed_dim": 64}}, "does not fit its configuration: .*inner_proj"),
        ({"model_cfg": {"conv_feature_layers": "__import__('os').system('true')"}}, "is not a list of"),
        ({"task_cfg": {"sample_rate": 8000}}, "at 8000 Hz, but lst works at 16000 Hz"),
        ({"model_weight": {"adapter.weight": torch.zeros(2)}}, "'adapter.weight' is no part of a HuBERT encoder"),
    ],
)
def test_foreign_checkpoints_are_refused(spirit: Path, change: dict[str, dict], message: str) -> None:
    path = spirit / "mhubert_base_25hz.pt"
    content = torch.load(path, weights_only=True)
    for key, values in change.items():
        content[key].update(values)
    torch.save(content, path)
    with pytest.raises(LstError, match=message):
        load_tokenizer(spirit)


@pytest.mark.parametrize("content", [{"state": 1}, [1], {"model_cfg": {}, "task_cfg": {}, "model_weight": {}}])
def test_other_torch_files_are_refused(spirit: Path, content: object) -> None:
    torch.save(content, spirit / "mhubert_base_25hz.pt")
    with pytest.raises(LstError, match="is not a HuBERT"):
        load_tokenizer(spirit)


def test_truncated_checkpoints_are_refused(tmp_path: Path, spirit: Path) -> None:
    path = spirit / "mhubert_base_25hz.pt"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(LstError, match=r"mhubert_base_25hz\.pt cannot be read as a torch file"):
        load_tokenizer(spirit)
    directory = save_huggingface(tiny_hubert(), tmp_path / "hf")
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(LstError, match="not a safetensors file"):
        load_tokenizer(directory)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "wav2vec2"}, "model_type 'wav2vec2', not hubert"),
        ({"hidden_act": "relu"}, "hidden_act other than gelu"),
        ({"layer_norm_eps": 1e-6}, "layer_norm_eps"),
        ({"conv_stride": [5, 2]}, "is not the configuration of a HubertModel"),
        ({"hidden_size": None}, "is not the configuration of a HubertModel"),
    ],
)
def test_other_hugging_face_models_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    directory = save_huggingface(tiny_hubert(), tmp_path / "hf")
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(LstError, match=message):
        read_huggingface(directory / "model.safetensors", path, None)


@pytest.mark.parametrize("text", ["", "[1]", "{"])
def test_a_configuration_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(LstError, match="not a JSON"):
        read_huggingface(tmp_path / "model.safetensors", tmp_path / "config.json", None)


def test_stem_is_parsed_without_eval() -> None:
    path = Path("x.pt")
    assert parse_conv_layers(path, "[(512,10,5)] + [(512,3,2)] * 2") == ((512, 10, 5), (512, 3, 2), (512, 3, 2))
    for text in (
        "[(1,1,1)] * 10**9",
        "[(1,1,1)] * 999999999",
        "open('x')",
        "[1]",
        "[]",
        "[(1,2)]",
        None,
        "[(1,1,1)]*33",
    ):
        with pytest.raises(LstError, match="conv_feature_layers"):
            parse_conv_layers(path, text)


@pytest.mark.parametrize(
    ("remove", "add", "message"),
    [
        (["L2_quantizer_500.pt"], [], "no tokenizer.json and no quantizer"),
        ([], ["L2_km500.npy"], "several quantizers"),
        (["mhubert_base_25hz.pt"], [], "should hold one encoder checkpoint, but has none"),
        ([], ["other.pt"], r"has several \(mhubert_base_25hz.pt, other.pt\)"),
        (["L2_quantizer_500.pt"], ["quantizer.pt"], "does not say which layer"),
    ],
)
def test_unclear_directories_are_refused(spirit: Path, remove: list[str], add: list[str], message: str) -> None:
    for name in remove:
        (spirit / name).unlink()
    for name in add:
        (spirit / name).write_bytes(b"")
    with pytest.raises(LstError, match=message) as caught:
        load_tokenizer(spirit)
    assert "tokenizer.json" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": {"kind": "codec"}}, "encoder"),
        ({"encoder": {"kind": "hubert", "weights": "mhubert_base_25hz.pt", "layer": 0}}, "encoder.hubert.layer"),
        ({"windows": {"length_s": 1.01, "overlap_s": 0}}, "multiple of 0.04 s"),
        ({"windows": {"length_s": 2, "overlap_s": 1.6}}, "at most half"),
        ({"windows": {"length_s": 101, "overlap_s": 8}}, "windows.length_s"),
        ({"quantiser": 3}, "quantiser"),
        ({"quantizer": {"weights": "absent.pt"}}, "absent.pt, which is not in"),
        ({"quantizer": {"weights": "../absent.pt"}}, "leaves"),
    ],
)
def test_wrong_specs_are_refused(spirit: Path, change: dict[str, object], message: str) -> None:
    write_spec(spirit, **change)
    with pytest.raises(LstError, match=message):
        load_tokenizer(spirit)


def test_default_windows_depend_on_the_kind() -> None:
    quantizer = {"weights": "c.safetensors"}
    hubert = {"kind": "hubert", "weights": "m.pt", "layer": 11}
    spec = TokenizerSpec.model_validate({"name": "n", "encoder": hubert, "quantizer": quantizer})
    assert spec.windows == WindowSpec(length_s=100, overlap_s=8)
    assert (spec.windows.length, spec.windows.margin, spec.windows.hop) == (2500, 100, 2300)
    spec = TokenizerSpec.model_validate({"name": "n", "encoder": {"kind": "mfcc"}, "quantizer": quantizer})
    assert spec.windows == WindowSpec(length_s=30, overlap_s=0.48)


def test_unknown_names_and_files_are_refused(spirit: Path) -> None:
    with pytest.raises(LstError, match="No tokenizer 'mfcc-502'"):
        load_tokenizer("mfcc-502")
    with pytest.raises(LstError, match="is a file") as caught:
        load_tokenizer(spirit / "mhubert_base_25hz.pt")
    assert str(spirit) in caught.value.hint
