"""Text models of Llama's architecture, in Hugging Face's files, and the global transformer: the same blocks.

`warm_start` copies a text model into the global transformer, as TWIST and Spirit LM begin from one; embeddings and head
come along where text goes straight into it (a base model, or `text_local: false`) and the tokenizer has as many pieces.
`llama_files` is the way back for base models, which are Llama models with a larger vocabulary.

Only safetensors are read, in one file or in several with an index; nothing is unpickled.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lst.errors import LstError
from lst.manifest.files import inside
from lst.manifest.hashing import sha256_file, sha256_json
from lst.model.config import LSTConfig, TransformerConfig
from lst.model.lst import LST

CONFIG = "config.json"
ONE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"

LAYER_PARTS = {
    "attention.qkv.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "attention.out.weight": ("self_attn.o_proj.weight",),
    "ffn.gate_up.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "ffn.down.weight": ("mlp.down_proj.weight",),
    "attention_norm.weight": ("input_layernorm.weight",),
    "ffn_norm.weight": ("post_attention_layernorm.weight",),
}
"""Our names within a layer, and those of Llama whose rows follow one another in ours. Rotary pairs are the same."""

log = logging.getLogger("lst.model")


def fingerprint(directory: Path) -> str:
    """What determines a text model's weights: SHA-256 over the hashes of its files. Raises LstError if it has none."""
    return sha256_json({path.name: sha256_file(path) for path in [directory / CONFIG, *_weight_files(directory)]})


def global_shape(directory: Path) -> TransformerConfig:
    """The shape of the text model in `directory` as a global transformer.

    Raises LstError if it is not of Llama's architecture as it is built here: biases, scaled rotary positions, or a head
    width other than dim / heads.
    """
    body = _read_json(directory / CONFIG)
    path = directory / CONFIG
    if body.get("model_type") != "llama":
        raise LstError(f"{path}: model_type is {body.get('model_type')!r}; only 'llama' can be read.")
    refused = {
        "attention_bias": body.get("attention_bias", False),
        "mlp_bias": body.get("mlp_bias", False),
        "rope_scaling": (body.get("rope_scaling") or {}).get("rope_type", "default") != "default",
        "head_dim": body.get("head_dim") not in (None, body["hidden_size"] // body["num_attention_heads"]),
        "hidden_act": body.get("hidden_act", "silu") != "silu",
    }
    for key, wrong in refused.items():
        if wrong:
            raise LstError(f"{path}: {key} is {body.get(key)!r}, which the global transformer does not have.")
    return TransformerConfig(
        layers=body["num_hidden_layers"],
        dim=body["hidden_size"],
        heads=body["num_attention_heads"],
        kv_heads=body.get("num_key_value_heads") or body["num_attention_heads"],
        ffn_multiple=body["intermediate_size"] / body["hidden_size"],
        rope_theta=body.get("rope_theta", 1e4),
    )


def check_shape(directory: Path, config: LSTConfig) -> None:
    """Raise LstError, with the setting that helps, unless `config`'s global transformer is the text model's shape."""
    wanted, found = global_shape(directory), config.global_transformer
    eps = float(_read_json(directory / CONFIG).get("rms_norm_eps", 1e-6))
    same = ("layers", "dim", "heads", "num_kv_heads", "ffn_hidden", "rope_theta")
    differ = [f"{name} {getattr(found, name)} (there {getattr(wanted, name)})" for name in same]
    differ = [text for text, name in zip(differ, same, strict=True) if getattr(found, name) != getattr(wanted, name)]
    if eps != config.norm_eps:
        differ.append(f"norm_eps {config.norm_eps:g} (there {eps:g})")
    if differ:
        keys = {name: getattr(wanted, name) for name in ("layers", "dim", "heads", "kv_heads", "rope_theta")}
        keys["ffn_multiple"] = wanted.ffn_multiple
        shape = json.dumps({"global_transformer": keys, "norm_eps": eps})
        raise LstError(
            f"The text model in {directory} does not fit the global transformer: {', '.join(differ)}.",
            hint=f"Set model.overrides to {shape}.",
        )


@torch.no_grad()
def warm_start(model: LST, directory: Path) -> list[str]:
    """Copy the text model in `directory` into `model`, in place. Returns the names of the parameters that were copied.

    Raises LstError if the shapes differ, or if a file is missing or damaged.
    """
    config = model.config
    check_shape(directory, config)
    state = dict(model.named_parameters())
    reader = _Reader(directory)
    copied = []
    for name, parts in _global_names(config.global_transformer):
        state[name].copy_(torch.cat([reader.tensor(part) for part in parts]))
        copied.append(name)
    pieces = int(_read_json(directory / CONFIG)["vocab_size"])
    tables = _text_tables(model)
    if tables and pieces == config.text_size:
        tied = "lm_head.weight" not in reader
        for name, source in zip(tables, ("model.embed_tokens.weight", "lm_head.weight"), strict=True):
            state[name][:pieces].copy_(reader.tensor("model.embed_tokens.weight" if tied else source))
            copied.append(name)
    else:
        why = f"it has {pieces} pieces, we {config.text_size}" if tables else "text passes through the local modules"
        log.warning("Embeddings and head of the text model were not copied: %s.", why)
    return copied


def llama_files(model: LST) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A base model as Hugging Face's `LlamaForCausalLM`: `config.json` and the tensors. Raises LstError for an LST."""
    config, wide = model.config, model.config.global_transformer
    if not config.is_base:
        raise LstError(f"'{config.name}' has local modules; only a base model is a Llama model.")
    body = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocabulary.size,
        "hidden_size": wide.dim,
        "intermediate_size": wide.ffn_hidden,
        "num_hidden_layers": wide.layers,
        "num_attention_heads": wide.heads,
        "num_key_value_heads": wide.num_kv_heads,
        "max_position_embeddings": 4096,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": wide.rope_theta,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": config.vocabulary.end,
        "pad_token_id": config.vocabulary.pad,
        "torch_dtype": str(model.head.weight.dtype).removeprefix("torch."),
    }
    state = dict(model.state_dict())
    sizes = {"q": wide.heads * wide.head_dim, "kv": wide.num_kv_heads * wide.head_dim, "ffn": wide.ffn_hidden}
    cuts = {"attention.qkv.weight": [sizes["q"], sizes["kv"], sizes["kv"]], "ffn.gate_up.weight": [sizes["ffn"]] * 2}
    tensors: dict[str, Tensor] = {}
    for name, parts in _global_names(wide):
        cut = cuts.get(name.split(".", 3)[-1])
        pieces = state[name].split(cut) if cut else [state[name]]
        tensors |= {part: piece.contiguous() for part, piece in zip(parts, pieces, strict=True)}
    scale = wide.dim**0.5 if config.tied_heads else 1.0  # a tied table is scaled up on the way in
    tensors["model.embed_tokens.weight"] = state["embedding.weight"] * scale
    tensors["lm_head.weight"] = state["head.weight"].clone()
    return body, tensors


def _global_names(wide: TransformerConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every parameter of the global transformer with Llama's names for its parts."""
    for layer in range(wide.layers):
        for ours, theirs in LAYER_PARTS.items():
            yield f"global_transformer.layers.{layer}.{ours}", tuple(f"model.layers.{layer}.{name}" for name in theirs)
    yield "global_transformer.norm.weight", ("model.norm.weight",)


def _text_tables(model: LST) -> tuple[str, str] | None:
    """Names of the embedding and the head of text, if text goes straight into the global transformer."""
    if model.config.is_base and not model.config.tied_heads:
        return "embedding.weight", "head.weight"
    return None if model.text_head is None else ("text_embedding.weight", "text_head.weight")


class _Reader:
    """The tensors of a text model by name, wherever they lie."""

    def __init__(self, directory: Path) -> None:
        self._file_of: dict[str, Path] = {}
        for path in _weight_files(directory):
            try:
                with safe_open(path, framework="pt") as file:
                    self._file_of |= dict.fromkeys(file.keys(), path)
            except SafetensorError as error:
                raise LstError(f"{path} is damaged: {error}.", hint="Fetch the text model again.") from error
        self._directory = directory

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def tensor(self, name: str) -> Tensor:
        if name not in self._file_of:
            raise LstError(f"{self._directory} holds no {name}.", hint="Is it a whole Llama model?")
        with safe_open(self._file_of[name], framework="pt") as file:
            return file.get_tensor(name).float()  # type: ignore[no-any-return]


def _weight_files(directory: Path) -> list[Path]:
    index = directory / INDEX
    if index.is_file():
        weight_map: Mapping[str, str] = _read_json(index).get("weight_map", {})
        files = [inside(directory, name, what=str(index)) for name in sorted(set(weight_map.values()))]
    else:
        files = [directory / ONE_FILE]
    for path in files:
        if not path.is_file():
            raise LstError(f"{path} is missing.", hint="Give the directory of a Llama model in safetensors.")
    return files


def _read_json(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LstError(f"{path} is missing.", hint="Give the directory of a Llama model in safetensors.") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise LstError(f"{path} is not JSON.") from error
    if not isinstance(body, dict):
        raise LstError(f"{path} holds no JSON object.")
    return body
