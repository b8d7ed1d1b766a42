"""Published HuBERT checkpoints: read without running anything in them, renamed to the modules of `lst.units.hubert`.

Two forms hold the same network under different names: fairseq-1 (as Spirit LM and TWIST publish it) and Hugging Face.
"""

import ast
import json
import operator
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lst.constants import FRAME_RATE, SAMPLE_RATE, SAMPLES_PER_FRAME
from lst.errors import LstError

if TYPE_CHECKING:
    from torch import Tensor


MAX_CONVOLUTIONS = 32


@dataclass(frozen=True)
class HubertArchitecture:
    """The network, in words that neither form owns."""

    conv_layers: tuple[tuple[int, int, int], ...]
    """(channels, kernel, stride) of each convolution of the stem."""
    conv_bias: bool
    conv_layer_norm: bool
    """Layer norm in every convolution (large models); otherwise group norm in the first."""
    dim: int
    layers: int
    heads: int
    ffn_dim: int
    pos_kernel: int
    pos_groups: int
    norm_first: bool

    @property
    def stride(self) -> int:
        """Samples per frame."""
        total = 1
        for _, _, stride in self.conv_layers:
            total *= stride
        return total


@dataclass(frozen=True)
class HubertCheckpoint:
    """Weights under the names `frontend.*` and `encoder.*` of fairseq2's modules."""

    architecture: HubertArchitecture
    weights: "dict[str, Tensor]"
    normalize: bool
    """Input scaled to zero mean and unit variance."""
    normalize_eps: float
    final_norm_at: int | None
    """In a `norm_first` network: the layer whose features have the closing layer norm, if any."""


class _Inert:
    """Stands in for a class of fairseq's in a checkpoint: keeps what it is given, does nothing."""

    values: tuple[object, ...] = ()

    def __init__(self, *values: object) -> None:
        self.values = values


def load_torch_file(path: Path, *, hint: str = "") -> Any:
    """Load a torch file as data: tensors, arrays, containers and numbers; nothing in it is executed.

    Bookkeeping objects of fairseq become inert. Raises LstError if the file is damaged or wants to run anything else.
    """
    import pickle

    import torch

    try:
        with torch.serialization.safe_globals(_data_only(_foreign_names(path))), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols: what torch cannot read, it refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        names = _foreign_names(path)
        what = f"it refers to {', '.join(names)}" if names else "it is not a plain torch file"
        raise LstError(f"{path} holds more than data ({what}), and lst runs no code from files.", hint=hint) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise LstError(
            f"{path} cannot be read as a torch file ({str(error).splitlines()[0]}).", hint=hint or "Fetch it again."
        ) from error


def _foreign_names(path: Path) -> list[str]:
    """Names in the pickle that torch does not know to be data."""
    import torch

    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    # A file of the old format, or no torch file: `torch.load` itself then says what is wrong.
    except (RuntimeError, ValueError, EOFError, OSError, KeyError):
        return []


def _data_only(names: list[str]) -> list[Any]:
    """What to allow among `names`: numpy's array constructors, and inert stand-ins for fairseq's own classes."""
    import numpy as np

    rebuild = np.zeros(0).__reduce__()[0]
    scalar = np.float64(0).__reduce__()[0]
    known: dict[str, Any] = {
        "numpy.core.multiarray._reconstruct": rebuild,
        "numpy._core.multiarray._reconstruct": rebuild,
        "numpy.core.multiarray.scalar": scalar,
        "numpy._core.multiarray.scalar": scalar,
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": np.dtype,
    }
    allowed: list[Any] = [(known[name], name) for name in names if name in known]
    if allowed:
        # The unpickler compares the class of a dtype instance, which is named in no pickle.
        allowed += [type(np.dtype(kind)) for kind in ("float16", "float32", "float64", "int32", "int64")]
    inert = [name for name in names if name.startswith("fairseq.") or name == "argparse.Namespace"]
    # One class per name: torch finds the stand-in for a name by its class.
    allowed += [(type("_Inert", (_Inert,), {}), name) for name in inert]
    return allowed


def read_fairseq(path: Path) -> HubertCheckpoint:
    """A fairseq-1 HuBERT: Spirit LM's {model_cfg, task_cfg, model_weight}, or fairseq's {cfg: {model, task}, model}."""
    content = load_torch_file(path)
    if not isinstance(content, dict):
        raise LstError(f"{path} is not a HuBERT checkpoint.")
    if "model_weight" in content:
        model, task, weights = content.get("model_cfg"), content.get("task_cfg"), content["model_weight"]
    elif "model" in content and _plain(content.get("cfg")):
        config = _plain(content["cfg"])
        model, task, weights = config.get("model"), config.get("task"), content["model"]
    else:
        found = ", ".join(map(str, list(content)[:6]))
        raise LstError(
            f"{path} is not a HuBERT checkpoint of fairseq or Spirit LM (it has {found}).",
            hint="Expected model_cfg, task_cfg, model_weight; or cfg, model.",
        )
    model, task = _plain(model), _plain(task)
    if not model or "feature_extractor.conv_layers.0.0.weight" not in weights:
        raise LstError(f"{path} is not a HuBERT: it lacks model_cfg or the weights of the convolutions.")
    rate = int(task.get("sample_rate", SAMPLE_RATE))
    if rate != SAMPLE_RATE:
        raise LstError(f"{path} was trained on audio at {rate} Hz, but lst works at {SAMPLE_RATE} Hz.")
    _supported(path, model.get("activation_fn", "gelu") == "gelu", "an activation other than GELU")
    _supported(path, model.get("layer_type", "transformer") == "transformer", "Conformer layers")
    _supported(path, not model.get("conv_pos_batch_norm", False), "batch norm in its position encoder")
    architecture = HubertArchitecture(
        conv_layers=parse_conv_layers(
            path, model.get("conv_feature_layers", "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2")
        ),
        conv_bias=bool(model.get("conv_bias", False)),
        conv_layer_norm=model.get("extractor_mode", "default") == "layer_norm",
        dim=int(model.get("encoder_embed_dim", 768)),
        layers=int(model.get("encoder_layers", 12)),
        heads=int(model.get("encoder_attention_heads", 12)),
        ffn_dim=int(model.get("encoder_ffn_embed_dim", 3072)),
        pos_kernel=int(model.get("conv_pos", 128)),
        pos_groups=int(model.get("conv_pos_groups", 16)),
        norm_first=bool(model.get("layer_norm_first", False)),
    )
    _check_stride(path, architecture)
    renamed = _rename(weights, _fairseq_names(architecture), path)
    normalize = bool(task.get("normalize", False))
    return HubertCheckpoint(architecture, renamed, normalize, normalize_eps=1e-5, final_norm_at=None)


def read_huggingface(weights_path: Path, config_path: Path, preprocessor_path: Path | None) -> HubertCheckpoint:
    """A HubertModel directory: config.json, and model.safetensors or pytorch_model.bin."""
    config = _read_json(config_path)
    model_type = config.get("model_type")
    _supported(config_path, model_type == "hubert", f"model_type {model_type!r}, not hubert")
    for key in ("hidden_act", "feat_extract_activation"):
        _supported(config_path, config.get(key, "gelu") == "gelu", f"{key} other than gelu")
    _supported(config_path, config.get("feat_proj_layer_norm", True), "no layer norm before its projection")
    _supported(config_path, not config.get("conv_pos_batch_norm", False), "batch norm in its position encoder")
    _supported(config_path, config.get("layer_norm_eps", 1e-5) == 1e-5, "a layer_norm_eps other than 1e-5")
    try:
        conv_layers = tuple(zip(config["conv_dim"], config["conv_kernel"], config["conv_stride"], strict=True))
        architecture = HubertArchitecture(
            conv_layers=conv_layers,
            conv_bias=bool(config.get("conv_bias", False)),
            conv_layer_norm=config.get("feat_extract_norm", "group") == "layer",
            dim=int(config["hidden_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=int(config["num_attention_heads"]),
            ffn_dim=int(config["intermediate_size"]),
            pos_kernel=int(config["num_conv_pos_embeddings"]),
            pos_groups=int(config["num_conv_pos_embedding_groups"]),
            norm_first=bool(config.get("do_stable_layer_norm", False)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise LstError(f"{config_path} is not the configuration of a HubertModel ({error}).") from error
    _check_stride(config_path, architecture)
    weights = _load_weights(weights_path)
    renamed = _rename(weights, _huggingface_names(architecture), weights_path)
    normalize = bool(_read_json(preprocessor_path).get("do_normalize", True)) if preprocessor_path else False
    return HubertCheckpoint(architecture, renamed, normalize, normalize_eps=1e-7, final_norm_at=architecture.layers)


def parse_conv_layers(path: Path, text: Any) -> tuple[tuple[int, int, int], ...]:
    """fairseq writes the stem as a Python expression of lists, `+` and `*`: evaluated here without `eval`."""

    def value(node: ast.AST) -> Any:
        if isinstance(node, ast.Expression):
            return value(node.body)
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.List):
            return [value(item) for item in node.elts]
        if isinstance(node, ast.Tuple):
            return tuple(value(item) for item in node.elts)
        operators: dict[type, Callable[[Any, Any], Any]] = {ast.Add: operator.add, ast.Mult: operator.mul}
        if isinstance(node, ast.BinOp) and type(node.op) in operators:
            left, right = value(node.left), value(node.right)
            if any(isinstance(side, int) and side > MAX_CONVOLUTIONS for side in (left, right)):
                raise ValueError("too many convolutions")
            return operators[type(node.op)](left, right)
        raise ValueError(f"{type(node).__name__} is not allowed")

    try:
        listed = value(ast.parse(text, mode="eval"))
        layers = tuple((int(dim), int(kernel), int(stride)) for dim, kernel, stride in listed)
    except (SyntaxError, ValueError, TypeError) as error:
        raise LstError(f"{path}: conv_feature_layers {text!r} is not a list of (channels, kernel, stride).") from error
    if not 1 <= len(layers) <= MAX_CONVOLUTIONS:
        raise LstError(f"{path}: conv_feature_layers {text!r} describes {len(layers)} convolutions.")
    return layers


def _check_stride(path: Path, architecture: HubertArchitecture) -> None:
    stride = architecture.stride
    if stride != SAMPLES_PER_FRAME:
        raise LstError(
            f"{path}: this HuBERT has a total stride of {stride} samples ({SAMPLE_RATE / stride:g} units/s), "
            f"but lst needs {SAMPLES_PER_FRAME} ({FRAME_RATE} units/s).",
            hint="Use a 25 Hz checkpoint (hubert-25hz-501, mhubert-base-25hz), or train one: lst train-tokenizer.",
        )


def _supported(path: Path, condition: bool, what: str) -> None:
    if not condition:
        raise LstError(f"{path}: this model has {what}, which lst does not support.", hint="Use a HuBERT checkpoint.")


def _plain(config: Any) -> dict[str, Any]:
    """A configuration as a dict, with inert enum members as their values."""
    if isinstance(config, _Inert):
        config = vars(config)
    if not isinstance(config, Mapping):
        return {}
    return {
        str(key): value.values[0] if isinstance(value, _Inert) and value.values else value
        for key, value in config.items()
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise LstError(f"{path} is not a JSON file ({error}).") from error
    if not isinstance(content, dict):
        raise LstError(f"{path} is not a JSON object.")
    return content


def _load_weights(path: Path) -> "Mapping[str, Tensor]":
    if path.suffix != ".safetensors":
        content = load_torch_file(path)
        if not isinstance(content, dict):
            raise LstError(f"{path} holds no weights.")
        return content
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise LstError(f"{path} is damaged: not a safetensors file ({error}).") from error


_UNUSED = re.compile(
    r"mask_emb$|masked_spec_embed$|label_embs_concat$|final_proj\.|target_glu\.|lm_head\.|classifier\.|projector\.|layer_weights$"
)
"""Weights of pre-training or of a head: no part of the features."""


def _rename(weights: Any, names: list[tuple[str, str]], path: Path) -> "dict[str, Tensor]":
    import torch

    patterns = [(re.compile(pattern), replacement) for pattern, replacement in names]
    renamed: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        name = re.sub(r"^(hubert\.|w2v_model\.|module\.)+", "", str(key))
        if _UNUSED.search(name) or not isinstance(tensor, torch.Tensor):
            continue
        for pattern, replacement in patterns:
            if pattern.match(name):
                renamed[pattern.sub(replacement, name, count=1)] = tensor.float()
                break
        else:
            raise LstError(f"{path}: weight {key!r} is no part of a HuBERT encoder.", hint="Is it another model?")
    return renamed


def _fairseq_names(architecture: HubertArchitecture) -> list[tuple[str, str]]:
    """fairseq-1 names -> ours, first match wins."""
    conv, layer = r"^feature_extractor\.conv_layers\.(\d+)\.", r"^encoder\.layers\.(\d+)\."
    ours = r"frontend.feature_extractor.layers.\1."
    norm = r"2\.1\." if architecture.conv_layer_norm else r"2\."
    return [
        (conv + r"0\.", ours + "conv."),
        (conv + norm, ours + ("layer_norm." if architecture.conv_layer_norm else "group_norm.")),
        (r"^layer_norm\.", "frontend.post_extract_layer_norm."),
        (r"^post_extract_proj\.", "frontend.model_dim_proj."),
        (r"^encoder\.pos_conv\.0\.", "frontend.pos_encoder.conv."),
        (r"^encoder\.layer_norm\.", _closing_norm(architecture)),
        (layer + r"self_attn\.out_proj\.", r"encoder.layers.\1.self_attn.output_proj."),
        (layer + r"self_attn\.", r"encoder.layers.\1.self_attn."),
        (layer + r"self_attn_layer_norm\.", r"encoder.layers.\1.self_attn_layer_norm."),
        (layer + r"fc1\.", r"encoder.layers.\1.ffn.inner_proj."),
        (layer + r"fc2\.", r"encoder.layers.\1.ffn.output_proj."),
        (layer + r"final_layer_norm\.", r"encoder.layers.\1.ffn_layer_norm."),
    ]


def _huggingface_names(architecture: HubertArchitecture) -> list[tuple[str, str]]:
    """Hugging Face names -> ours, first match wins."""
    conv, layer = r"^feature_extractor\.conv_layers\.(\d+)\.", r"^encoder\.layers\.(\d+)\."
    ours = r"frontend.feature_extractor.layers.\1."
    position, encoder_position = r"^encoder\.pos_conv_embed\.conv\.", "frontend.pos_encoder.conv."
    return [
        (conv + r"conv\.", ours + "conv."),
        (conv + r"layer_norm\.", ours + ("layer_norm." if architecture.conv_layer_norm else "group_norm.")),
        (r"^feature_projection\.layer_norm\.", "frontend.post_extract_layer_norm."),
        (r"^feature_projection\.projection\.", "frontend.model_dim_proj."),
        (position + r"parametrizations\.weight\.original0", encoder_position + "weight_g"),
        (position + r"parametrizations\.weight\.original1", encoder_position + "weight_v"),
        (position, encoder_position),
        (r"^encoder\.layer_norm\.", _closing_norm(architecture)),
        (layer + r"attention\.out_proj\.", r"encoder.layers.\1.self_attn.output_proj."),
        (layer + r"attention\.", r"encoder.layers.\1.self_attn."),
        (layer + r"layer_norm\.", r"encoder.layers.\1.self_attn_layer_norm."),
        (layer + r"feed_forward\.intermediate_dense\.", r"encoder.layers.\1.ffn.inner_proj."),
        (layer + r"feed_forward\.output_dense\.", r"encoder.layers.\1.ffn.output_proj."),
        (layer + r"final_layer_norm\.", r"encoder.layers.\1.ffn_layer_norm."),
    ]


def _closing_norm(architecture: HubertArchitecture) -> str:
    """Both forms call it `encoder.layer_norm`; it stands before the layers, or after them if they normalise first."""
    return "encoder.layer_norm." if architecture.norm_first else "frontend.layer_norm."
