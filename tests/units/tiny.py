"""Tiny random HuBERTs, written in the forms in which the real ones are published."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import HubertConfig, HubertModel

DIM, CHANNELS = 32, 24
STEM = [(CHANNELS, 10, 5)] + [(CHANNELS, 3, 2)] * 4 + [(CHANNELS, 2, 2)] * 2
STEM_25HZ = [*STEM, (CHANNELS, 2, 2)]


def tiny_hubert(*, stem: list[tuple[int, int, int]] = STEM_25HZ, large: bool = False, **more: Any) -> HubertModel:
    """Three layers of random weights; `large`: layer norm in the stem and before attention, as in HuBERT-large."""
    torch.manual_seed(0)
    config = HubertConfig(
        hidden_size=DIM,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        conv_dim=[channels for channels, _, _ in stem],
        conv_kernel=[kernel for _, kernel, _ in stem],
        conv_stride=[stride for _, _, stride in stem],
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        conv_bias=large,
        feat_extract_norm="layer" if large else "group",
        do_stable_layer_norm=large,
        **more,
    )
    model = HubertModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # The library's initialisation is nearly zero: with it every layer would look like the first.
            spread = 0.1 if name.endswith("bias") else 0.3
            centre = 1.0 if "layer_norm.weight" in name else 0.0
            parameter.copy_(centre + spread * torch.randn_like(parameter))
    return model


def speechlike(samples: int, seed: int = 0) -> np.ndarray:
    """(samples,) float32: bursts of filtered noise with pauses between them."""
    rng = np.random.default_rng(seed)
    envelope = np.repeat(rng.uniform(0, 1, samples // 1600 + 1) ** 2, 1600)[:samples]
    tone = np.sin(np.cumsum(np.repeat(rng.uniform(0.01, 0.3, samples // 800 + 1), 800)[:samples]))
    return (0.2 * envelope * (tone + 0.5 * rng.standard_normal(samples))).astype(np.float32)


def hidden_states(model: HubertModel, samples: np.ndarray, layer: int) -> np.ndarray:
    """(T, dim): what Hugging Face calls hidden_states[layer]."""
    with torch.inference_mode():
        output = model(torch.from_numpy(samples)[None], output_hidden_states=True)
    return output.hidden_states[layer][0].numpy()


def fairseq_weights(model: HubertModel) -> dict[str, torch.Tensor]:
    """The same weights under fairseq-1's names."""
    large = model.config.do_stable_layer_norm
    renamed = {
        "mask_emb": torch.zeros(DIM),
        "final_proj.weight": torch.zeros(8, DIM),
        "final_proj.bias": torch.zeros(8),
    }
    simple = {
        "feature_projection.layer_norm": "layer_norm",
        "feature_projection.projection": "post_extract_proj",
        "encoder.layer_norm": "encoder.layer_norm",
    }
    in_layer = {
        "attention.q_proj": "self_attn.q_proj",
        "attention.k_proj": "self_attn.k_proj",
        "attention.v_proj": "self_attn.v_proj",
        "attention.out_proj": "self_attn.out_proj",
        "layer_norm": "self_attn_layer_norm",
        "feed_forward.intermediate_dense": "fc1",
        "feed_forward.output_dense": "fc2",
        "final_layer_norm": "final_layer_norm",
    }
    for key, value in model.state_dict().items():
        module, _, kind = key.rpartition(".")
        parts = module.split(".")
        if key == "masked_spec_embed":
            continue
        if module in simple:
            name = f"{simple[module]}.{kind}"
        elif module == "encoder.pos_conv_embed.conv.parametrizations.weight":
            name = "encoder.pos_conv.0." + {"original0": "weight_g", "original1": "weight_v"}[kind]
        elif module == "encoder.pos_conv_embed.conv":
            name = f"encoder.pos_conv.0.{kind}"
        elif parts[0] == "feature_extractor":
            place = "0" if parts[3] == "conv" else ("2.1" if large else "2")
            name = f"feature_extractor.conv_layers.{parts[2]}.{place}.{kind}"
        else:
            name = f"encoder.layers.{parts[2]}.{in_layer['.'.join(parts[3:])]}.{kind}"
        renamed[name] = value.clone()
    return renamed


def fairseq_configs(model: HubertModel, *, normalize: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """(model_cfg, task_cfg) as fairseq writes them, the stem as an expression."""
    config = model.config
    stem = list(zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True))
    model_cfg = {
        "_name": "hubert",
        "label_rate": 25.0,
        "extractor_mode": "layer_norm" if config.feat_extract_norm == "layer" else "default",
        "encoder_layers": config.num_hidden_layers,
        "encoder_embed_dim": config.hidden_size,
        "encoder_ffn_embed_dim": config.intermediate_size,
        "encoder_attention_heads": config.num_attention_heads,
        "activation_fn": "gelu",
        "layer_norm_first": config.do_stable_layer_norm,
        "conv_feature_layers": f"[{stem[0]}] + [{stem[1]}] * 4 + [{stem[5]}] * {len(stem) - 5}",
        "conv_bias": config.conv_bias,
        "conv_pos": config.num_conv_pos_embeddings,
        "conv_pos_groups": config.num_conv_pos_embedding_groups,
        "dropout": 0.1,
    }
    return model_cfg, {"_name": "hubert_pretraining", "sample_rate": 16000, "normalize": normalize, "labels": ["km"]}


def save_spirit_lm(
    model: HubertModel, directory: Path, *, normalize: bool = False, quantizer: dict[str, Any] | None = None
) -> Path:
    """`mhubert_base_25hz.pt` as Spirit LM publishes it, and a quantizer of layer 2 beside it."""
    directory.mkdir(parents=True, exist_ok=True)
    model_cfg, task_cfg = fairseq_configs(model, normalize=normalize)
    torch.save(
        {
            "model_cfg": model_cfg,
            "task_cfg": task_cfg,
            "model_weight": fairseq_weights(model),
            "dictionaries_symbols": [["<s>", "0", "1"]],
        },
        directory / "mhubert_base_25hz.pt",
    )
    torch.save(quantizer or linear_quantizer(), directory / "L2_quantizer_500.pt")
    return directory


def save_huggingface(model: HubertModel, directory: Path, *, safe: bool = True, normalize: bool | None = None) -> Path:
    """A model directory as `save_pretrained` writes it, and a codebook of layer 2 beside it."""
    model.save_pretrained(directory, safe_serialization=safe)
    if normalize is not None:
        text = json.dumps({"do_normalize": normalize, "feature_extractor_type": "Wav2Vec2FeatureExtractor"})
        (directory / "preprocessor_config.json").write_text(text)
    np.save(directory / "L2_km500.npy", codebook(500, DIM))
    return directory


def codebook(clusters: int, dim: int) -> np.ndarray:
    """(clusters, dim) random centroids."""
    return np.random.default_rng(1).standard_normal((clusters, dim)).astype(np.float32)


def linear_quantizer(dim: int = DIM, upstream_dim: int = 551, blank_bias: float = 0.0) -> dict[str, Any]:
    """Spirit LM's quantizer with random layers: dim -> dim - m//4 -> dim - m//2 -> 501, m = upstream_dim - 501."""
    generator = torch.Generator().manual_seed(2)
    middle = upstream_dim - 501
    widths = [dim, dim - middle // 4, dim - middle // 2, 501]
    weights = {}
    for index, (fan_in, fan_out) in enumerate(pairwise(widths)):
        weights[f"{2 * index}.weight"] = torch.randn(fan_out, fan_in, generator=generator)
        weights[f"{2 * index}.bias"] = 0.1 * torch.randn(fan_out, generator=generator)
    weights["4.bias"][500] += blank_bias
    return {"model_cfg": {"vocab_size": 500, "dim": dim, "upstream_dim": upstream_dim}, "model_weight": weights}
