"""Parameters and FLOPs of a configuration, by module, counted on paper: no torch, no weights.

A multiply-add is two FLOPs. Only matrix products and attention count; norms, rotations and the softmax are left out, as
usual. Training costs three times the forward pass. The counts agree with torch's FlopCounterMode (tests, within 5%).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lst.errors import LstError
from lst.model.config import FFN_ROUNDING, LSTConfig, TransformerConfig

if TYPE_CHECKING:
    from lst.data.batch import PackedBatch

SPEECH_SHARE = 0.77
"""Speech units among the original tokens of interleaved data (paper, section 4)."""
INTERLEAVED_SHARE = 1 / 3
"""One third interleaved speech, two thirds text (paper, section 4)."""


@dataclass(frozen=True)
class TokenCounts:
    """What passes through a model, in a step or per sequence unit. Pairs are query-key pairs per layer."""

    tokens: float
    """Original tokens: units, text pieces, controls."""
    local_tokens: float
    """Of these, the ones that pass through the local modules."""
    patches: float
    """Sequence units of the global transformer: patches and text tokens."""
    targets: float
    """Predicted tokens that go through the local head (base: through the only head)."""
    text_targets: float
    """Predicted tokens that go through the global transformer's own text head."""
    global_pairs: float
    encoder_pairs: float
    decoder_pairs: float
    prefix_pairs: float
    """Token-patch pairs of the decoder's cross-attention."""
    member_pairs: float
    """Query-token pairs of the encoder's cross-attention."""

    def __mul__(self, factor: float) -> "TokenCounts":
        return TokenCounts(**{name: value * factor for name, value in vars(self).items()})


def mixture_counts(
    config: LSTConfig,
    *,
    document_units: float = 4096,
    patch_length: float | None = None,
    speech_share: float = SPEECH_SHARE * INTERLEAVED_SHARE,
) -> TokenCounts:
    """Average counts per sequence unit for the paper's data: 3.00 original tokens become 2.42 sequence units.

    `document_units`: sequence units per document, which bounds attention (the paper packs 4,096; shorter documents cost
    less). `patch_length`: units per patch, by default the static size. `speech_share`: of original tokens.
    """
    length = float(config.patching.size) if patch_length is None else patch_length
    if config.is_base:
        length = 1.0
    per_token = (1 - speech_share) + speech_share / length
    tokens = 1 / per_token
    local = 0.0 if config.is_base else tokens * (1.0 if config.text_local else speech_share)
    document_local = document_units * local
    text_targets = tokens - local if not (config.is_base or config.text_local) else 0.0
    return TokenCounts(
        tokens=tokens,
        local_tokens=local,
        patches=1.0,
        targets=tokens - text_targets,
        text_targets=text_targets,
        global_pairs=_mean_span(document_units, None),
        encoder_pairs=local * _mean_span(document_local, config.encoder.window) if config.encoder else 0.0,
        decoder_pairs=local * _mean_span(document_local, config.decoder.window) if config.decoder else 0.0,
        prefix_pairs=local * document_units / 2,
        member_pairs=local * config.queries_per_patch,
    )


def speech_patches(config: LSTConfig, counts: TokenCounts) -> float:
    """Patches of speech among `counts`, which are of the paper's mixture (`mixture_counts`)."""
    length = 1.0 if config.is_base else float(config.patching.size)
    return counts.tokens * SPEECH_SHARE * INTERLEAVED_SHARE / length


def batch_counts(config: LSTConfig, batch: "PackedBatch", *, dense: bool = False) -> TokenCounts:
    """Exact counts of a batch. `dense`: padding and hidden pairs included, as a dense back end computes them."""
    from lst.data.batch import IGNORED
    from lst.model.local import LocalTokens
    from lst.model.masks import CausalMask, Mask, PrefixMask

    def pairs(mask: Mask) -> float:
        rows, queries, keys = mask.shape
        return float(rows * queries * keys if dense else (mask.last - mask.first).sum())

    def count(documents: "object") -> float:
        return float(documents.numel() if dense else (documents > 0).sum())  # type: ignore[attr-defined, operator]

    patches = count(batch.patch_documents)
    wanted = batch.targets != IGNORED
    unit = batch.tokens >= config.vocabulary.unit_offset
    global_pairs = pairs(CausalMask(batch.patch_documents))
    if config.encoder is None or config.decoder is None:
        return TokenCounts(
            count(batch.documents), 0.0, patches, float(wanted.sum()), 0.0, global_pairs, 0.0, 0.0, 0.0, 0.0
        )
    local = (
        LocalTokens.all_of(batch) if config.text_local else LocalTokens.units_of(batch, config.vocabulary.unit_offset)
    )
    text_targets = 0.0 if config.text_local else float((wanted & ~unit).sum())
    return TokenCounts(
        tokens=count(batch.documents),
        local_tokens=count(local.documents),
        patches=patches,
        targets=float(wanted.sum()) - text_targets,
        text_targets=text_targets,
        global_pairs=global_pairs,
        encoder_pairs=pairs(CausalMask(local.documents, config.encoder.window)),
        decoder_pairs=pairs(CausalMask(local.documents, config.decoder.window)),
        prefix_pairs=pairs(PrefixMask(local.documents, local.visible, batch.patch_documents)),
        member_pairs=count(local.documents) * config.queries_per_patch,
    )


def parameters(config: LSTConfig) -> dict[str, int]:
    """Number of weights by module; modules that the configuration does not have are left out."""
    vocabulary, wide = config.vocabulary, config.global_transformer
    counts = {"global_transformer": _stack_parameters(wide) + wide.dim}
    if config.encoder is None or config.decoder is None:
        counts["embedding"] = vocabulary.size * wide.dim
        counts["head"] = 0 if config.tied_heads else vocabulary.size * wide.dim
    else:
        encoder, decoder, k = config.encoder, config.decoder, config.queries_per_patch
        cross = 2 * encoder.dim**2 + 2 * encoder.dim * encoder.num_kv_heads * encoder.head_dim
        split = k * encoder.dim**2 if k > 1 else 0
        counts["encoder"] = _stack_parameters(encoder) + cross + split + 2 * encoder.dim + k * encoder.dim * wide.dim
        cross = 2 * decoder.dim**2 + 2 * wide.dim * decoder.num_kv_heads * decoder.head_dim + decoder.dim
        mapped = encoder.dim * decoder.dim if encoder.dim != decoder.dim else 0
        counts["decoder"] = _stack_parameters(decoder) + decoder.layers * cross + mapped + decoder.dim
        counts["embedding"] = (vocabulary.size if config.text_local else vocabulary.num_units) * encoder.dim
        counts["head"] = 0 if config.tied_heads else vocabulary.size * decoder.dim
        if not config.text_local:
            counts["text_embedding"] = vocabulary.unit_offset * wide.dim
            counts["text_head"] = vocabulary.size * wide.dim
    order = ("embedding", "text_embedding", "encoder", "global_transformer", "decoder", "head", "text_head")
    return {name: counts[name] for name in order if counts.get(name)}


def forward_flops(config: LSTConfig, counts: TokenCounts) -> dict[str, float]:
    """FLOPs of a forward pass by module, with the loss's logits at targets only."""
    wide, vocabulary = config.global_transformer, config.vocabulary
    flops = {"global_transformer": _stack_flops(wide, counts.patches, counts.global_pairs)}
    if config.encoder is None or config.decoder is None:
        flops["head"] = 2 * counts.targets * wide.dim * vocabulary.size
        return flops
    encoder, decoder, k = config.encoder, config.decoder, config.queries_per_patch
    queries = counts.patches * k
    flops["encoder"] = (
        _stack_flops(encoder, counts.local_tokens, counts.encoder_pairs)
        + (2 * counts.patches * k * encoder.dim**2 if k > 1 else 0.0)
        + 4 * queries * encoder.dim**2
        + 4 * counts.local_tokens * encoder.dim * encoder.num_kv_heads * encoder.head_dim
        + 4 * counts.member_pairs * encoder.dim
        + 2 * queries * encoder.dim * wide.dim
    )
    cross = (
        4 * counts.local_tokens * decoder.dim**2
        + 4 * counts.patches * wide.dim * decoder.num_kv_heads * decoder.head_dim
        + 4 * counts.prefix_pairs * decoder.dim
    )
    flops["decoder"] = (
        _stack_flops(decoder, counts.local_tokens, counts.decoder_pairs)
        + decoder.layers * cross
        + (2 * counts.local_tokens * encoder.dim * decoder.dim if encoder.dim != decoder.dim else 0.0)
    )
    flops["head"] = 2 * counts.targets * decoder.dim * vocabulary.size
    if not config.text_local:
        flops["text_head"] = 2 * counts.text_targets * wide.dim * vocabulary.size
    return {
        name: flops[name] for name in ("encoder", "global_transformer", "decoder", "head", "text_head") if name in flops
    }


def training_flops(config: LSTConfig, counts: TokenCounts) -> float:
    """FLOPs of a training step (forward and backward, no recomputation)."""
    return 3 * sum(forward_flops(config, counts).values())


def match_flops(base: LSTConfig, patched: LSTConfig, *, document_units: float = 4096) -> LSTConfig:
    """`base` with as many layers (and a feed-forward width) as give it `patched`'s FLOPs per sequence unit.

    The local modules and the head are counted, for the paper's mixture. Raises `LstError` if no number of layers fits.
    """
    wanted = training_flops(patched, mixture_counts(patched, document_units=document_units))
    counts = mixture_counts(base, document_units=document_units)

    def cost(layers: int, hidden: int) -> float:
        return training_flops(_reshaped(base, layers, hidden), counts)

    original = base.global_transformer
    empty = 2 * cost(1, original.ffn_hidden) - cost(2, original.ffn_hidden)
    per_layer = cost(2, original.ffn_hidden) - cost(1, original.ffn_hidden)
    layers = max(1, round((wanted - empty) / per_layer))
    per_width = (cost(layers, 2 * FFN_ROUNDING) - cost(layers, FFN_ROUNDING)) / FFN_ROUNDING
    hidden = original.ffn_hidden + (wanted - cost(layers, original.ffn_hidden)) / per_width
    width = max(FFN_ROUNDING, round(hidden / FFN_ROUNDING) * FFN_ROUNDING)
    matched = _reshaped(base, layers, width)
    if abs(training_flops(matched, counts) / wanted - 1) > 0.03:
        raise LstError(f"No base of width {original.dim} costs what '{patched.name}' costs per sequence unit.")
    return matched


def _reshaped(config: LSTConfig, layers: int, hidden: int) -> LSTConfig:
    wide = config.global_transformer
    resized = wide.model_copy(update={"layers": layers, "ffn_multiple": hidden / wide.dim})
    return config.model_copy(update={"global_transformer": resized})


def _stack_parameters(stack: TransformerConfig) -> int:
    attention = stack.dim * (stack.heads + 2 * stack.num_kv_heads) * stack.head_dim + stack.dim**2
    return stack.layers * (attention + 3 * stack.dim * stack.ffn_hidden + 2 * stack.dim)


def _stack_flops(stack: TransformerConfig, tokens: float, pairs: float) -> float:
    weights = _stack_parameters(stack) - stack.layers * 2 * stack.dim
    return 2 * tokens * weights + stack.layers * 4 * pairs * stack.dim


def _mean_span(length: float, window: int | None) -> float:
    """Mean number of tokens that a token of a document of `length` tokens sees, itself included."""
    if window is None or length <= window:
        return (length + 1) / 2
    return window - window * (window - 1) / (2 * length)
