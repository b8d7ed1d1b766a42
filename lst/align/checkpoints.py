"""Acoustic models with a CTC head: of `lst train-aligner`, and wav2vec 2.0 in the forms it is published in.

Our own form says everything itself (`lst.align.network`). The others become torchaudio's `Wav2Vec2Model`; they are
known by their parameter names: torchaudio's, Hugging Face's (`Wav2Vec2ForCTC`, a directory), fairseq's and fairseq2's.
Shapes give the geometry; `config.json` and `vocab.json` beside the weights say the rest where they exist. Nothing in a
file is executed.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lst.errors import LstError
from lst.manifest import sha256_file

if TYPE_CHECKING:
    from torch import Tensor
    from torchaudio.models import Wav2Vec2Model

    from lst.align.network import CTCNetwork

WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.pt", "*.safetensors", "*.pt", "*.pth", "*.bin")
SIDE_FILES = ("config.json", "vocab.json", "preprocessor_config.json", "dict.ltr.txt")

_BASE_960H = "-|ETAONIHSRDLUMWCFGYPBVK'XJQZ"
_MMS_FA = "-aienoutsrmkldghybpwcvjzf'qx"
_FAIRSEQ_LETTERS = ("<s>", "<pad>", "</s>", "<unk>", *"|ETAONIHSRDLUMWCFGYPBVK'XJQZ")
KNOWN_LABELS: dict[int, tuple[str, ...]] = {
    29: tuple(_BASE_960H),  # torchaudio's base and large models fine-tuned on LibriSpeech
    28: tuple(_MMS_FA),  # torchaudio's MMS_FA
    32: _FAIRSEQ_LETTERS,  # fairseq's dict.ltr.txt, the blank at 0
}
"""Alphabets of public checkpoints that bring no vocabulary, by the size of their output; the blank is 0."""

_SPECIAL = re.compile(r"<.*>|\[.*\]|madeupword\d+")
_Rules = Sequence[tuple[str, str]]

_LAYER = r"encoder.transformer.layers.\1."
_CONV = r"feature_extractor.conv_layers.\1."
_RULES: dict[str, _Rules] = {
    "torchaudio": (
        (
            r"(?:model\.|wav2vec2\.)?((?:feature_extractor|encoder\.feature_projection|encoder\.transformer|aux)\..*)",
            r"\1",
        ),
    ),
    "Hugging Face": (
        (r"(?:wav2vec2\.)?feature_extractor\.conv_layers\.(\d+)\.(.*)", _CONV + r"\2"),
        (r"(?:wav2vec2\.)?feature_projection\.(.*)", r"encoder.feature_projection.\1"),
        (r"(?:wav2vec2\.)?encoder\.(pos_conv_embed|layer_norm|layers)\.(.*)", r"encoder.transformer.\1.\2"),
        (r"lm_head\.(.*)", r"aux.\1"),
    ),
    "fairseq": (
        (r"(?:w2v_encoder\.)?w2v_model\.feature_extractor\.conv_layers\.(\d+)\.0\.(.*)", _CONV + r"conv.\2"),
        (
            r"(?:w2v_encoder\.)?w2v_model\.feature_extractor\.conv_layers\.(\d+)\.2\.(?:1\.)?(.*)",
            _CONV + r"layer_norm.\2",
        ),
        (r"(?:w2v_encoder\.)?w2v_model\.layer_norm\.(.*)", r"encoder.feature_projection.layer_norm.\1"),
        (r"(?:w2v_encoder\.)?w2v_model\.post_extract_proj\.(.*)", r"encoder.feature_projection.projection.\1"),
        (r"(?:w2v_encoder\.)?w2v_model\.encoder\.pos_conv\.0\.(.*)", r"encoder.transformer.pos_conv_embed.conv.\1"),
        (r"(?:w2v_encoder\.)?w2v_model\.encoder\.layer_norm\.(.*)", r"encoder.transformer.layer_norm.\1"),
        (
            r"(?:w2v_encoder\.)?w2v_model\.encoder\.layers\.(\d+)\.self_attn\.([kvq]|out)_proj\.(.*)",
            _LAYER + r"attention.\2_proj.\3",
        ),
        (r"(?:w2v_encoder\.)?w2v_model\.encoder\.layers\.(\d+)\.self_attn_layer_norm\.(.*)", _LAYER + r"layer_norm.\2"),
        (
            r"(?:w2v_encoder\.)?w2v_model\.encoder\.layers\.(\d+)\.fc1\.(.*)",
            _LAYER + r"feed_forward.intermediate_dense.\2",
        ),
        (r"(?:w2v_encoder\.)?w2v_model\.encoder\.layers\.(\d+)\.fc2\.(.*)", _LAYER + r"feed_forward.output_dense.\2"),
        (
            r"(?:w2v_encoder\.)?w2v_model\.encoder\.layers\.(\d+)\.final_layer_norm\.(.*)",
            _LAYER + r"final_layer_norm.\2",
        ),
        (r"(?:w2v_encoder\.)?proj\.(.*)", r"aux.\1"),
    ),
    "fairseq2": (
        (r"encoder_frontend\.feature_extractor\.layers\.(\d+)\.conv\.(.*)", _CONV + r"conv.\2"),
        (r"encoder_frontend\.feature_extractor\.layers\.(\d+)\.(?:group|layer)_norm\.(.*)", _CONV + r"layer_norm.\2"),
        (r"encoder_frontend\.post_extract_layer_norm\.(.*)", r"encoder.feature_projection.layer_norm.\1"),
        (r"encoder_frontend\.model_dim_proj\.(.*)", r"encoder.feature_projection.projection.\1"),
        (r"encoder_frontend\.pos_encoder\.conv\.(.*)", r"encoder.transformer.pos_conv_embed.conv.\1"),
        (r"(?:encoder|encoder_frontend)\.layer_norm\.(.*)", r"encoder.transformer.layer_norm.\1"),
        (r"encoder\.layers\.(\d+)\.self_attn\.([kvq])_proj\.(.*)", _LAYER + r"attention.\2_proj.\3"),
        (r"encoder\.layers\.(\d+)\.self_attn\.output_proj\.(.*)", _LAYER + r"attention.out_proj.\2"),
        (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.(.*)", _LAYER + r"layer_norm.\2"),
        (r"encoder\.layers\.(\d+)\.ffn\.inner_proj\.(.*)", _LAYER + r"feed_forward.intermediate_dense.\2"),
        (r"encoder\.layers\.(\d+)\.ffn\.output_proj\.(.*)", _LAYER + r"feed_forward.output_dense.\2"),
        (r"encoder\.layers\.(\d+)\.ffn_layer_norm\.(.*)", _LAYER + r"final_layer_norm.\2"),
        (r"final_proj\.(.*)", r"aux.\1"),
    ),
}
_SIGNS = {
    "torchaudio": "encoder.transformer.layers.0.",
    "Hugging Face": "feature_projection.projection.weight",
    "fairseq": "w2v_model.encoder.layers.0.fc1.weight",
    "fairseq2": "encoder_frontend.feature_extractor.layers.0.",
}
_LEFT_OUT = re.compile(
    r".*(?:masked_spec_embed|mask_emb|temporal_mask_embed|quantizer|project_q|final_proj_p|\.adapter).*"
)


@dataclass(frozen=True)
class CTCCheckpoint:
    """A CTC acoustic model with what it takes and what it says.

    labels: one per output, special ones as they are written; blank: index of the CTC blank; delimiter: index of the
    sign between words, or None; normalize: input scaled to zero mean and unit variance; stride: samples per frame.
    """

    model: "Wav2Vec2Model | CTCNetwork"
    labels: tuple[str, ...]
    blank: int
    delimiter: int | None
    normalize: bool
    stride: int
    receptive_field: int
    language: str = "en"
    """How digits and abbreviations are read."""
    start_shift_s: float = 0.0
    end_shift_s: float = 0.0
    """Added to where the characters of a word begin and end: what they are known to be off by."""


def checkpoint_files(path: Path) -> tuple[Path, list[Path]]:
    """(file of weights, files beside it that matter). Raises LstError if there are no weights."""
    directory = path if path.is_dir() else path.parent
    if path.is_dir():
        found = [file for pattern in WEIGHTS for file in sorted(path.glob(pattern))]
        if not found:
            raise LstError(
                f"{path} holds no checkpoint.", hint="It needs model.safetensors, pytorch_model.bin or *.pt."
            )
        weights = found[0]
    else:
        weights = path
    return weights, [directory / name for name in SIDE_FILES if (directory / name).is_file()]


def checkpoint_fingerprint(path: Path) -> str:
    """SHA-256 over the weights and the files that say how to read them."""
    weights, others = checkpoint_files(path)
    parts = [sha256_file(weights), *(f"{file.name} {sha256_file(file)}" for file in others)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def load_checkpoint(path: Path) -> CTCCheckpoint:
    """Read a checkpoint. Raises LstError if it is damaged, of no known form, or without a CTC head or its alphabet."""
    weights_file, others = checkpoint_files(path)
    if weights_file.suffix == ".safetensors" and (own := _own_form(weights_file)) is not None:
        return own
    side = {file.name: _read_side_file(file) for file in others}
    form, weights = _rename(_tensors(weights_file), weights_file)
    config = side.get("config.json") or {}
    model, stride, field = _build(weights, config, weights_file)
    size = model.aux.out_features  # type: ignore[union-attr, unused-ignore]
    labels = _labels(int(size), side, weights_file)
    blank = _blank(labels, config, form)
    delimiter = labels.index("|") if "|" in labels else None
    wide = "feature_extractor.conv_layers.1.layer_norm.weight" in weights
    # Hugging Face's processors scale by default; elsewhere only the models with layer norms were trained so.
    default = True if form == "Hugging Face" else wide
    normalize = bool((side.get("preprocessor_config.json") or {}).get("do_normalize", default))
    return CTCCheckpoint(model, labels, blank, delimiter, normalize, stride, field)


def _own_form(path: Path) -> CTCCheckpoint | None:
    """A network of `lst train-aligner`, which says all of this itself."""
    from lst.align.network import BLANK, SPACE, STRIDE, ctc_description, load_ctc

    if ctc_description(path) is None:
        return None
    network = load_ctc(path)
    config = network.config
    return CTCCheckpoint(
        network,
        config.labels,
        config.labels.index(BLANK),
        config.labels.index(SPACE),
        normalize=False,
        stride=STRIDE,
        receptive_field=STRIDE,
        language=config.language,
        start_shift_s=config.start_shift_s,
        end_shift_s=config.end_shift_s,
    )


def _tensors(path: Path) -> "dict[str, Tensor]":
    import torch

    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except (SafetensorError, OSError) as error:
            raise LstError(f"{path} cannot be read ({error}).", hint="Fetch it again.") from error
    from lst.units.checkpoints import load_torch_file

    content = load_torch_file(path)
    for key in ("model", "state_dict", "model_weight"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise LstError(f"{path} is not a wav2vec 2.0 checkpoint: it holds no named tensors.")
    return {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}


def _rename(tensors: "Mapping[str, Tensor]", path: Path) -> "tuple[str, dict[str, Tensor]]":
    """(form, tensors under torchaudio's names)."""
    form = next((form for form, sign in _SIGNS.items() if any(sign in name for name in tensors)), None)
    if form is None:
        raise LstError(
            f"{path} is not a wav2vec 2.0 checkpoint of a form that lst reads.", hint=f"It reads {', '.join(_RULES)}."
        )
    renamed = {}
    for name, value in tensors.items():
        if _LEFT_OUT.fullmatch(name):
            continue
        for pattern, replacement in _RULES[form]:
            match = re.fullmatch(pattern, name)
            if match:
                renamed[match.expand(replacement)] = value.float()
                break
        else:
            raise LstError(f"{path} ({form}) has a parameter that lst does not know: {name}.")
    return form, renamed


def _build(weights: "dict[str, Tensor]", config: Mapping[str, Any], path: Path) -> "tuple[Wav2Vec2Model, int, int]":
    """The model with its weights, its stride and receptive field in samples."""
    from torchaudio.models import wav2vec2_model

    prefix = "encoder.transformer.pos_conv_embed.conv."
    for old, new in (
        ("weight_g", "parametrizations.weight.original0"),
        ("weight_v", "parametrizations.weight.original1"),
    ):
        if prefix + old in weights:
            weights[prefix + new] = weights.pop(prefix + old)
    if "aux.weight" not in weights:
        raise LstError(
            f"{path} has no CTC head: it cannot align.", hint="Give a checkpoint fine-tuned for recognition."
        )
    try:
        convolutions = _convolutions(weights, config)
        dim = weights["encoder.transformer.layer_norm.weight"].shape[0]
        depth = 1 + max(int(m[1]) for n in weights if (m := re.match(r"encoder\.transformer\.layers\.(\d+)\.", n)))
        position = weights[prefix + "parametrizations.weight.original1"]
        wide = "feature_extractor.conv_layers.1.layer_norm.weight" in weights
        model = wav2vec2_model(
            extractor_mode="layer_norm" if wide else "group_norm",
            extractor_conv_layer_config=convolutions,
            extractor_conv_bias="feature_extractor.conv_layers.0.conv.bias" in weights,
            encoder_embed_dim=dim,
            encoder_projection_dropout=0.0,
            encoder_pos_conv_kernel=position.shape[2],
            encoder_pos_conv_groups=dim // position.shape[1],
            encoder_num_layers=depth,
            encoder_num_heads=int(config.get("num_attention_heads") or max(1, dim // 64)),
            encoder_attention_dropout=0.0,
            encoder_ff_interm_features=weights[
                "encoder.transformer.layers.0.feed_forward.intermediate_dense.weight"
            ].shape[0],
            encoder_ff_interm_dropout=0.0,
            encoder_dropout=0.0,
            encoder_layer_norm_first=bool(config.get("do_stable_layer_norm", wide)),
            encoder_layer_drop=0.0,
            aux_num_out=weights["aux.weight"].shape[0],
        )
        model.load_state_dict(weights)
    except (KeyError, ValueError, RuntimeError, IndexError) as error:
        reason = " ".join(str(error).split())[:300]
        raise LstError(f"{path} is no complete wav2vec 2.0 model ({reason}).", hint="Fetch it again.") from error
    stride, field = 1, 1
    for _, kernel, step in convolutions:
        field += (kernel - 1) * stride
        stride *= step
    return model.eval(), stride, field


def _convolutions(weights: "Mapping[str, Tensor]", config: Mapping[str, Any]) -> list[tuple[int, int, int]]:
    """(channels, kernel, stride) of the stem. Strides are wav2vec 2.0's 5, 2, 2, ... unless config.json has others."""
    shapes: list[Sequence[int]] = []
    while (name := f"feature_extractor.conv_layers.{len(shapes)}.conv.weight") in weights:
        shapes.append(weights[name].shape)
    strides = config.get("conv_stride") or [5, *[2] * (len(shapes) - 1)]
    return [(int(shape[0]), int(shape[2]), int(stride)) for shape, stride in zip(shapes, strides, strict=True)]


def _labels(size: int, side: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    if "vocab.json" in side:
        vocabulary: dict[str, int] = side["vocab.json"]
        names = {index: label for label, index in vocabulary.items()}
        # A padded head has outputs that no label stands for.
        return tuple(names.get(index, f"<unused{index}>") for index in range(size))
    if "dict.ltr.txt" in side:
        labels = ("<s>", "<pad>", "</s>", "<unk>", *side["dict.ltr.txt"])
        if len(labels) == size:
            return labels
    if size in KNOWN_LABELS:
        return KNOWN_LABELS[size]
    raise LstError(
        f"{path} has {size} outputs, and nothing says which characters they are.",
        hint='Put a vocab.json beside it: {"<pad>": 0, "|": 4, "E": 5, ...}.',
    )


def _blank(labels: Sequence[str], config: Mapping[str, Any], form: str) -> int:
    if isinstance(config.get("pad_token_id"), int) and form == "Hugging Face":
        return int(config["pad_token_id"])
    for name in ("<pad>", "[PAD]", "<blank>", "-"):
        if name in labels and not (name == "<pad>" and form in ("fairseq", "fairseq2")):
            return labels.index(name)
    return 0


def is_special(label: str) -> bool:
    """Whether a label is no character of text (`<unk>`, `[PAD]`, ...)."""
    return len(label) != 1 or bool(_SPECIAL.fullmatch(label))


def _read_side_file(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".txt":
            return [line.split()[0] for line in text.splitlines() if line.strip()]
        body = json.loads(text)
    except (OSError, ValueError) as error:
        raise LstError(f"{path} cannot be read ({error}).", hint="Fetch it again.") from error
    if not isinstance(body, dict):
        raise LstError(f"{path} is not a JSON object.", hint="Fetch it again.")
    if path.name == "vocab.json" and not all(isinstance(value, int) for value in body.values()):
        # One vocabulary per language, as some multilingual models have it.
        raise LstError(f"{path} is not a vocabulary: label -> number.", hint="Put that of one language there.")
    return body
