"""The Whisper teacher: CTranslate2's file read by hand, every layer as Hugging Face has it, and packing."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder as ReferenceEncoder

from lst.errors import LstError
from lst.units.teachers import open_teacher
from lst.units.whisper import load_whisper
from tests.units.tiny import speechlike

DIM, LAYERS = 128, 2


def whisper_encoder() -> ReferenceEncoder:
    """Two layers of random weights."""
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=DIM,
        encoder_layers=LAYERS,
        encoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=8,
        attn_implementation="eager",
    )
    model = ReferenceEncoder(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_positions" not in name:
                parameter.copy_((1.0 if "norm.weight" in name else 0.0) + 0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def reference() -> ReferenceEncoder:
    return whisper_encoder()


def ctranslate2_file(path: Path, model: ReferenceEncoder, spec: str = "WhisperSpec") -> Path:
    """What ct2-transformers-converter would write of the encoder, in float16 where that is exact enough: float32."""
    state = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    variables = {
        "encoder/conv1/weight": state["conv1.weight"],
        "encoder/conv1/bias": state["conv1.bias"],
        "encoder/conv2/weight": state["conv2.weight"],
        "encoder/conv2/bias": state["conv2.bias"],
        "encoder/position_encodings/encodings": state["embed_positions.weight"],
        "encoder/layer_norm/gamma": state["layer_norm.weight"],
        "encoder/layer_norm/beta": state["layer_norm.bias"],
        "encoder/num_heads": np.array(2, np.int16),
    }
    for layer in range(LAYERS):
        theirs, ours = f"layers.{layer}.", f"encoder/layer_{layer}/"
        attention = theirs + "self_attn."
        keys = np.zeros_like(state[attention + "q_proj.bias"])
        variables |= {
            ours + "self_attention/linear_0/weight": np.concatenate(
                [state[f"{attention}{part}_proj.weight"] for part in "qkv"]
            ),
            ours + "self_attention/linear_0/bias": np.concatenate(
                [state[attention + "q_proj.bias"], keys, state[attention + "v_proj.bias"]]
            ),
            ours + "self_attention/linear_1/weight": state[attention + "out_proj.weight"],
            ours + "self_attention/linear_1/bias": state[attention + "out_proj.bias"],
            ours + "self_attention/layer_norm/gamma": state[theirs + "self_attn_layer_norm.weight"],
            ours + "self_attention/layer_norm/beta": state[theirs + "self_attn_layer_norm.bias"],
            ours + "ffn/linear_0/weight": state[theirs + "fc1.weight"],
            ours + "ffn/linear_0/bias": state[theirs + "fc1.bias"],
            ours + "ffn/linear_1/weight": state[theirs + "fc2.weight"],
            ours + "ffn/linear_1/bias": state[theirs + "fc2.bias"],
            ours + "ffn/layer_norm/gamma": state[theirs + "final_layer_norm.weight"],
            ours + "ffn/layer_norm/beta": state[theirs + "final_layer_norm.bias"],
        }

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    kinds = {"float32": 0, "int16": 2}
    content = struct.pack("<I", 6) + text(spec) + struct.pack("<II", 3, len(variables))
    for name, value in variables.items():
        content += text(name) + struct.pack("<B", value.ndim) + struct.pack(f"<{value.ndim}I", *value.shape)
        content += struct.pack("<BI", kinds[str(value.dtype)], value.nbytes) + value.tobytes()
    path.write_bytes(content + struct.pack("<I", 0))
    return path


@pytest.mark.parametrize("layer", [1, 2])
def test_every_layer_is_that_of_hugging_face(reference: ReferenceEncoder, tmp_path: Path, layer: int) -> None:
    encoder = load_whisper(ctranslate2_file(tmp_path / "model.bin", reference), layer)
    sound = np.concatenate([speechlike(16000 * 20), np.zeros(16000 * 10, np.float32)])
    inputs = WhisperFeatureExtractor()(sound, sampling_rate=16000, return_tensors="pt").input_features
    with torch.inference_mode():
        states = reference(inputs, output_hidden_states=True)
        expected = states.last_hidden_state if layer == LAYERS else states.hidden_states[layer]
        found = encoder.window_features(torch.from_numpy(sound))
    pairs = expected[0].reshape(750, 2, DIM).mean(dim=1)
    assert torch.allclose(found, pairs, atol=2e-3)


def test_utterances_share_windows_and_keep_their_lengths(reference: ReferenceEncoder, tmp_path: Path) -> None:
    ctranslate2_file(tmp_path / "model.bin", reference)
    teacher = open_teacher(str(tmp_path), None)
    clips = [(index, speechlike(640 * frames + 17, index)) for index, frames in enumerate((30, 400, 300, 50, 1000))]
    found = dict(teacher.features(iter(clips)))
    assert list(found) == [0, 1, 2, 3, 4]
    assert [found[index].shape for index in range(5)] == [(31, DIM), (401, DIM), (301, DIM), (51, DIM), (1001, DIM)]
    window = np.zeros(480_000, np.float32)
    for index, first in ((0, 0), (1, 41)):  # 31 frames, a pause of 10, 401 frames; number 2 does not fit any more
        window[640 * first : 640 * first + len(clips[index][1])] = clips[index][1]
    with torch.inference_mode():
        expected = load_whisper(tmp_path).window_features(torch.from_numpy(window)).numpy()
    assert np.array_equal(found[0], expected[:31])
    assert np.array_equal(found[1], expected[41:442])
    assert teacher.identity["layer"] == LAYERS


@pytest.mark.parametrize(
    ("damage", "message"),
    [("cut", "cannot be read"), ("other", "holds a TransformerSpec"), ("layer", "there is no layer 3")],
)
def test_other_files_are_one_sentence(reference: ReferenceEncoder, tmp_path: Path, damage: str, message: str) -> None:
    path = ctranslate2_file(
        tmp_path / "model.bin", reference, spec="TransformerSpec" if damage == "other" else "WhisperSpec"
    )
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(LstError, match=message):
        load_whisper(path, 3 if damage == "layer" else 1)
