"""CTC checkpoints in every published form give the same emissions as the library they come from."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile  # noqa: F401 - before fairseq2, which brings a library of the same name
import torch
from torchaudio.models import wav2vec2_model

from lst.align.checkpoints import checkpoint_fingerprint, load_checkpoint
from lst.align.ctc import CTCAligner
from lst.align.loading import aligner_fingerprint, aligner_name, default_min_score, load_aligner
from lst.errors import LstError

SAMPLES = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
VOCABULARY = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "e": 5, "t": 6, "a": 7, "'": 8}
STEM = [(16, 10, 5), (16, 3, 2), (16, 2, 2)]


def emissions(path: Path, samples: np.ndarray = SAMPLES) -> np.ndarray:
    return CTCAligner.from_checkpoint(path, name="x").emissions(samples)


def random_torchaudio(*, wide: bool = False, labels: int = 29) -> Any:
    torch.manual_seed(0)
    model = wav2vec2_model(
        "layer_norm" if wide else "group_norm", STEM, wide, 64, 0.0, 8, 4, 2, 1, 0.0, 96, 0.0, 0.0, wide, 0.0, labels
    )
    return model.eval()


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("safe", [False, True])
def test_hugging_face(tmp_path: Path, wide: bool, safe: bool) -> None:
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        conv_dim=[16, 16, 16],
        conv_kernel=[10, 3, 2],
        conv_stride=[5, 2, 2],
        num_feat_extract_layers=3,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=4,
        feat_extract_norm="layer" if wide else "group",
        do_stable_layer_norm=wide,
        conv_bias=wide,
        pad_token_id=0,
    )
    model = Wav2Vec2ForCTC(config).eval()
    model.save_pretrained(tmp_path, safe_serialization=safe)
    (tmp_path / "vocab.json").write_text(json.dumps(VOCABULARY))
    scaled = (SAMPLES - SAMPLES.mean()) / np.sqrt(SAMPLES.var() + 1e-7)
    with torch.inference_mode():
        expected = torch.log_softmax(model(torch.from_numpy(scaled)[None]).logits[0], dim=-1).numpy()
    ours = emissions(tmp_path)
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, atol=2e-5)
    aligner = CTCAligner.from_checkpoint(tmp_path, name="tiny")
    assert aligner.spell("ta'et?") == [6, 7, 8, 5, 6]
    assert aligner.checkpoint.delimiter == 4
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": false}')
    assert not load_checkpoint(tmp_path).normalize


@pytest.mark.parametrize("wide", [False, True])
def test_torchaudio(tmp_path: Path, wide: bool) -> None:
    model = random_torchaudio(wide=wide)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    checkpoint = load_checkpoint(tmp_path / "model.pth")
    assert checkpoint.labels[:3] == ("-", "|", "E")
    assert checkpoint.normalize == wide
    assert (checkpoint.stride, checkpoint.receptive_field) == (20, 30)
    samples = (SAMPLES - SAMPLES.mean()) / np.sqrt(SAMPLES.var() + 1e-7) if wide else SAMPLES
    with torch.inference_mode():
        expected = torch.log_softmax(model(torch.from_numpy(samples)[None])[0][0], dim=-1).numpy()
    np.testing.assert_allclose(emissions(tmp_path), expected, atol=2e-5)


def to_fairseq(name: str) -> str:
    """A torchaudio parameter name as fairseq has it."""
    for pattern, replacement in (
        (r"feature_extractor\.conv_layers\.(\d+)\.conv\.", r"w2v_model.feature_extractor.conv_layers.\1.0."),
        (r"feature_extractor\.conv_layers\.(\d+)\.layer_norm\.", r"w2v_model.feature_extractor.conv_layers.\1.2."),
        (r"encoder\.feature_projection\.layer_norm\.", "w2v_model.layer_norm."),
        (r"encoder\.feature_projection\.projection\.", "w2v_model.post_extract_proj."),
        (
            r"encoder\.transformer\.pos_conv_embed\.conv\.parametrizations\.weight\.original0",
            "w2v_model.encoder.pos_conv.0.weight_g",
        ),
        (
            r"encoder\.transformer\.pos_conv_embed\.conv\.parametrizations\.weight\.original1",
            "w2v_model.encoder.pos_conv.0.weight_v",
        ),
        (r"encoder\.transformer\.pos_conv_embed\.conv\.bias", "w2v_model.encoder.pos_conv.0.bias"),
        (r"encoder\.transformer\.layers\.(\d+)\.attention\.", r"w2v_model.encoder.layers.\1.self_attn."),
        (r"encoder\.transformer\.layers\.(\d+)\.layer_norm\.", r"w2v_model.encoder.layers.\1.self_attn_layer_norm."),
        (
            r"encoder\.transformer\.layers\.(\d+)\.feed_forward\.intermediate_dense\.",
            r"w2v_model.encoder.layers.\1.fc1.",
        ),
        (r"encoder\.transformer\.layers\.(\d+)\.feed_forward\.output_dense\.", r"w2v_model.encoder.layers.\1.fc2."),
        (r"encoder\.transformer\.(layers\.\d+\.final_layer_norm|layer_norm)\.", r"w2v_model.encoder.\1."),
        (r"aux\.", "proj."),
    ):
        name, count = re.subn(f"^{pattern}", replacement, name)
        if count:
            break
    return f"w2v_encoder.{name}"


def test_fairseq(tmp_path: Path) -> None:
    from argparse import Namespace

    model = random_torchaudio(labels=32)
    weights = {to_fairseq(name): value for name, value in model.state_dict().items()}
    weights["w2v_encoder.w2v_model.mask_emb"] = torch.zeros(64)
    torch.save({"args": Namespace(task="audio_pretraining"), "model": weights}, tmp_path / "ft.pt")
    checkpoint = load_checkpoint(tmp_path)
    assert (checkpoint.blank, checkpoint.delimiter) == (0, 4)
    with torch.inference_mode():
        expected = torch.log_softmax(model(torch.from_numpy(SAMPLES)[None])[0][0], dim=-1).numpy()
    np.testing.assert_allclose(emissions(tmp_path), expected, atol=2e-5)


@pytest.mark.parametrize("wide", [False, True])
def test_fairseq2(tmp_path: Path, wide: bool) -> None:
    from fairseq2.models.transformer import TransformerNormOrder
    from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrConfig
    from fairseq2.models.wav2vec2.asr.factory import Wav2Vec2AsrFactory
    from fairseq2.nn import BatchLayout

    config = Wav2Vec2AsrConfig(target_vocab_size=32, use_masking=False)
    encoder = config.encoder_config
    encoder.model_dim, encoder.ffn_inner_dim, encoder.feature_dim = 64, 96, 16
    encoder.num_encoder_layers, encoder.num_encoder_attn_heads = 2, 1
    encoder.feature_extractor_layer_descs = STEM
    encoder.pos_conv_kernel_size, encoder.num_pos_conv_groups = 8, 4
    encoder.feature_extractor_layer_norm_convs = encoder.feature_extractor_bias = wide
    encoder.norm_order = TransformerNormOrder.PRE if wide else TransformerNormOrder.POST
    encoder.layer_norm_features = not wide
    torch.manual_seed(0)
    model = Wav2Vec2AsrFactory(config).create_model().eval()
    torch.save({"model": model.state_dict()}, tmp_path / "model.pt")
    samples = (SAMPLES - SAMPLES.mean()) / np.sqrt(SAMPLES.var() + 1e-7) if wide else SAMPLES
    batch = torch.from_numpy(samples)[None]
    with torch.inference_mode():
        logits, _ = model(batch, BatchLayout.of(batch))
        expected = torch.log_softmax(logits[0], dim=-1).numpy()
    np.testing.assert_allclose(emissions(tmp_path), expected, atol=2e-5)


def test_windows_agree_with_the_whole_away_from_their_edges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lst.align.ctc as ctc

    torch.save(random_torchaudio(wide=True).state_dict(), tmp_path / "model.pth")
    whole = emissions(tmp_path)
    monkeypatch.setattr(ctc, "WINDOW_S", 0.3)
    monkeypatch.setattr(ctc, "OVERLAP_S", 0.2)
    parts = emissions(tmp_path)
    assert parts.shape == whole.shape
    assert np.abs(np.exp(parts) - np.exp(whole)).max() < 0.05
    for length in (0, 29, 30, 49, 50):
        assert len(emissions(tmp_path, SAMPLES[:length])) == max(0, (length - 30) // 20 + 1)


class Harm:
    """A pickle that would run code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("harm",))


def test_what_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(match: str, **files: Any) -> None:
        for file in tmp_path.iterdir():
            file.unlink()
        for name, content in files.items():
            path = tmp_path / name.replace("__", ".")
            path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        with pytest.raises(LstError, match=match):
            load_checkpoint(tmp_path)

    good = random_torchaudio().state_dict()
    refused("holds no checkpoint")
    refused("more than data", model__pt={"model": Harm()})
    refused("not a plain torch file", model__pt=b"nonsense")
    refused("cannot be read", model__safetensors=b"nonsense")
    refused("no named tensors", model__pt=[1, 2])
    refused("not a wav2vec 2.0 checkpoint", model__pt={"weight": torch.zeros(2)})
    refused("no CTC head", model__pt={k: v for k, v in good.items() if not k.startswith("aux")})
    refused("no complete wav2vec", model__pt={k: v for k, v in good.items() if "layers.1.final" not in k})
    refused("does not know", model__pt={**good, "extra": torch.zeros(1)})
    refused("which characters", model__pt=random_torchaudio(labels=17).state_dict())
    refused("not a vocabulary", model__pt=good, vocab__json=b'{"eng": {"a": 1}}')
    refused(r"vocab\.json cannot be read", model__pt=good, vocab__json=b"{")
    assert "harm" not in capsys.readouterr().out


def test_by_path_and_by_name(tmp_path: Path) -> None:
    torch.save(random_torchaudio().state_dict(), tmp_path / "model.pth")
    loaded = load_aligner(tmp_path)
    assert loaded.name == tmp_path.name == aligner_name(tmp_path)
    assert loaded.fingerprint == aligner_fingerprint(tmp_path) == checkpoint_fingerprint(tmp_path / "model.pth")
    (tmp_path / "vocab.json").write_text(json.dumps({str(i): i for i in range(29)}))
    assert aligner_fingerprint(tmp_path) != loaded.fingerprint
    assert default_min_score("pocketsphinx") > default_min_score(tmp_path)
    assert aligner_fingerprint("pocketsphinx") == load_aligner("pocketsphinx").fingerprint
    with pytest.raises(LstError, match="pocketsphinx needs no download"):
        load_aligner("no-such-aligner")
    with pytest.raises(LstError, match="not on this machine"):
        aligner_fingerprint("wav2vec2-base-960h")
