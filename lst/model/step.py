"""The layers of the model for one new token per document.

The same weights and the same algebra as `lst.model.blocks` and `lst.model.local`, compiled by TorchScript: for a single
token a layer is some forty tiny operations between four products that read all its weights, and Python would take as
long over the former as the memory over the latter (benchmarks/NOTES.md). States are (R, d), one row per document.
Tests hold the results equal to the full forward pass.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lst.model.blocks import CrossAttention, RMSNorm, TransformerLayer, rotation
from lst.model.kv import Places
from lst.model.linear import Linear, pack_rows
from lst.model.local import DecoderLayer, PatchEncoder


def turn_table(positions: int, head_dim: int, theta: float, device: torch.device) -> Tensor:
    """Rotations at positions 0.. `positions` - 1: cos and sin, (positions, 2, 1, head_dim).

    The first half of the sines is negated (see `_turned`). All are times head_dim^-1/4, so that the scores of turned
    queries and keys are scaled.
    """
    cos, sin = (part[0] for part in rotation(torch.arange(positions, device=device)[None], head_dim, theta))
    table = torch.stack([torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)], dim=1)
    return table.mul_(head_dim**-0.25)


class Matrix(NamedTuple):
    """The weight (out, in) of a linear layer, as it is or packed, and its `columns` (`lst.model.linear.pack`)."""

    weight: Tensor
    packed: bool
    columns: Tensor | None

    @staticmethod
    def of(layer: Linear) -> "Matrix":
        if layer.packed is None:
            return Matrix(layer.weight.detach(), False, None)
        return Matrix(layer.packed, True, layer.columns)

    @staticmethod
    def from_row(layer: Linear, first: int) -> "Matrix":
        """Only the outputs from `first` on."""
        if first == 0:
            return Matrix.of(layer)
        if layer.packed is None:
            return Matrix(layer.weight.detach()[first:], False, None)
        packed, columns = pack_rows(layer, first)
        return Matrix(packed, True, columns)


class Norm(NamedTuple):
    """The weight of an RMSNorm times sqrt(d), and sqrt(d eps)."""

    weight: Tensor
    floor: Tensor

    @staticmethod
    def of(norm: RMSNorm) -> "Norm":
        weight: Tensor = norm.weight.detach().float()
        dim = len(weight)
        return Norm(weight * math.sqrt(dim), weight.new_tensor(math.sqrt(dim * norm.eps)))


class LayerWeights(NamedTuple):
    """Self-attention and feed-forward of a layer."""

    attention_norm: Norm
    qkv: Matrix
    out: Matrix
    ffn_norm: Norm
    gate_up: Matrix
    down: Matrix
    heads: int
    kv_heads: int

    @staticmethod
    def of(layer: TransformerLayer | DecoderLayer) -> "LayerWeights":
        attention, ffn = layer.attention, layer.ffn
        return LayerWeights(
            Norm.of(layer.attention_norm),
            Matrix.of(attention.qkv),
            Matrix.of(attention.out),
            Norm.of(layer.ffn_norm),
            Matrix.of(ffn.gate_up),
            Matrix.of(ffn.down),
            attention.heads,
            attention.kv_heads,
        )


class CrossWeights(NamedTuple):
    """Cross-attention of a decoder layer or of the patch encoder."""

    norm: Norm
    query: Matrix
    key_value: Matrix
    out: Matrix
    heads: int
    kv_heads: int

    @staticmethod
    def of(norm: RMSNorm, cross: CrossAttention) -> "CrossWeights":
        return CrossWeights(
            Norm.of(norm),
            Matrix.of(cross.query),
            Matrix.of(cross.key_value),
            Matrix.of(cross.out),
            cross.heads,
            cross.kv_heads,
        )


class PatchWeights(NamedTuple):
    """What makes a patch of token states: pooling, cross-attention, projection."""

    pooling: str
    split: Matrix | None
    token_norm: Norm
    cross: CrossWeights
    output: Matrix

    @staticmethod
    def of(encoder: PatchEncoder) -> "PatchWeights":
        return PatchWeights(
            encoder.pooling,
            None if encoder.split is None else Matrix.of(encoder.split),
            Norm.of(encoder.token_norm),
            CrossWeights.of(encoder.query_norm, encoder.cross),
            Matrix.of(encoder.output),
        )


def _product(x: Tensor, matrix: Matrix) -> Tensor:
    columns = matrix.columns
    if columns is not None and x.size(0) == 1:
        return torch.mm(x, columns)
    if matrix.packed:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, matrix.weight, None, "none", [], "")
        return out
    return F.linear(x, matrix.weight)


def _add_product(x: Tensor, y: Tensor, matrix: Matrix) -> Tensor:
    """x plus the product of y with the matrix."""
    columns = matrix.columns
    if columns is not None and x.size(0) == 1:
        return torch.addmm(x, y, columns)
    return x + _product(y, matrix)


def _normed(x: Tensor, norm: Norm) -> Tensor:
    """RMSNorm: sqrt(mean(x^2) + eps) is hypot(|x|, sqrt(d eps)) / sqrt(d)."""
    if x.dtype == torch.float32:
        return (x * norm.weight).div_(torch.hypot(torch.linalg.vector_norm(x, 2, [-1], True), norm.floor))
    wide = x.float()
    length = torch.linalg.vector_norm(wide, 2, [-1], True)
    return (wide * norm.weight).div_(torch.hypot(length, norm.floor)).to(x.dtype)


def _turned(states: Tensor, turn: Tensor) -> Tensor:
    """`lst.model.kernels.rotate` for heads (R, H, D) by `turn` (R or 1, 2, 1, D), a part of `turn_table`."""
    turned = (states * turn[:, 0]).addcmul_(states.roll(states.size(-1) // 2, -1), turn[:, 1])
    return turned if turned.dtype == states.dtype else turned.to(states.dtype)


def _write(key: Tensor, value: Tensor, keys: Tensor, values: Tensor, places: Places) -> None:
    """Puts `key` and `value` (R, G, D) in the new tokens' places."""
    at, each = places.at, places.each
    if at is not None and each is not None:
        keys[at, each] = key.flatten(0, 1)
        values[at, each] = value.flatten(0, 1)
    else:
        keys.select(1, places.place).copy_(key.flatten(0, 1))
        values.select(1, places.place).copy_(value.flatten(0, 1))


def _read(query: Tensor, keys: Tensor, values: Tensor, places: Places) -> Tensor:
    """Attention of `query` (R, H, D) to what is kept, (R, H * D); 0 where that is nothing."""
    rows, heads, width = query.size(0), query.size(1), query.size(2)
    if places.most == 0:
        return query.new_zeros([rows, heads * width])
    seen_keys, seen_values = keys.narrow(1, 0, places.most), values.narrow(1, 0, places.most)
    index, bias, keep = places.rows, places.bias, places.keep
    if index is not None:
        seen_keys, seen_values = seen_keys.index_select(0, index), seen_values.index_select(0, index)
    # Query heads that share a key head stand as several queries of it: nothing is repeated.
    grouped = query.reshape(seen_keys.size(0), -1, width)
    # Keys times queries, not queries times keys: for one query MKL is faster so (benchmarks/NOTES.md).
    scores = torch.bmm(seen_keys, grouped.transpose(1, 2)).transpose(1, 2)
    if bias is not None:
        scores = scores + bias
    weights = torch.softmax(scores, -1) if scores.dtype == torch.float32 else torch.softmax(scores.float(), -1)
    if weights.dtype != values.dtype:
        weights = weights.to(values.dtype)
    out = torch.bmm(weights, seen_values).view(rows, heads * width)
    return out if keep is None else out * keep


def _token_layer(
    x: Tensor, weights: LayerWeights, turn: Tensor, keys: Tensor, values: Tensor, places: Places
) -> Tensor:
    joined = _product(_normed(x, weights.attention_norm), weights.qkv)
    both = weights.heads + weights.kv_heads
    joined = joined.view(x.size(0), both + weights.kv_heads, -1)
    turned = _turned(joined[:, :both], turn)
    _write(turned[:, weights.heads :], joined[:, both:], keys, values, places)
    x = _add_product(x, _read(turned[:, : weights.heads], keys, values, places), weights.out)
    gate, up = _product(_normed(x, weights.ffn_norm), weights.gate_up).chunk(2, -1)
    return _add_product(x, F.silu(gate).mul_(up), weights.down)


def _remember(
    patch: Tensor,
    weights: CrossWeights,
    turn: Tensor,
    keys: Tensor,
    values: Tensor,
    places: Places,
) -> None:
    joined = _product(patch, weights.key_value).view(patch.size(0), 2 * weights.kv_heads, -1)
    key = _turned(joined[:, : weights.kv_heads], turn)
    _write(key, joined[:, weights.kv_heads :], keys, values, places)


def _look(
    x: Tensor,
    weights: CrossWeights,
    turn: Tensor,
    keys: Tensor,
    values: Tensor,
    places: Places,
) -> Tensor:
    query = _product(_normed(x, weights.norm), weights.query).view(x.size(0), weights.heads, -1)
    query = _turned(query, turn)
    return _add_product(x, _read(query, keys, values, places), weights.out)


def _stack(
    x: Tensor,
    layers: list[LayerWeights],
    turn: Tensor,
    keys: Tensor,
    values: Tensor,
    places: Places,
) -> Tensor:
    for number, weights in enumerate(layers):
        x = _token_layer(x, weights, turn, keys[number], values[number], places)
    return x


def _global_step(
    x: Tensor,
    layers: list[LayerWeights],
    norm: Norm,
    turn: Tensor,
    keys: Tensor,
    values: Tensor,
    places: Places,
    head: Matrix | None,
    cross: list[CrossWeights],
    cross_turn: Tensor,
    prefix_keys: Tensor | None,
    prefix_values: Tensor | None,
    prefix_places: Places | None,
) -> Tensor:
    out = _normed(_stack(x, layers, turn, keys, values, places), norm)
    if prefix_keys is not None and prefix_values is not None and prefix_places is not None:
        for number, weights in enumerate(cross):
            _remember(out, weights, cross_turn, prefix_keys[number], prefix_values[number], prefix_places)
    return out if head is None else _product(out, head).float()


def _decode(
    x: Tensor,
    widen: Matrix | None,
    layers: list[LayerWeights],
    norm: Norm,
    turn: Tensor,
    keys: Tensor,
    values: Tensor,
    places: Places,
    head: Matrix,
    cross: list[CrossWeights],
    cross_turn: Tensor,
    prefix_keys: Tensor,
    prefix_values: Tensor,
    prefix_places: Places,
) -> Tensor:
    if widen is not None:
        x = _product(x, widen)
    for number, weights in enumerate(layers):
        seen_keys, seen_values = prefix_keys[number], prefix_values[number]
        x = _look(x, cross[number], cross_turn, seen_keys, seen_values, prefix_places)
        x = _token_layer(x, weights, turn, keys[number], values[number], places)
    return _product(_normed(x, norm), head).float()


def _one_patch(hidden: Tensor, inside: Tensor | None, weights: PatchWeights) -> Tensor:
    rows, tokens, dim = hidden.size(0), hidden.size(1), hidden.size(2)
    if weights.pooling == "max":
        pooled = (hidden if inside is None else hidden.masked_fill(~inside[:, :, None], -float("inf"))).amax(1)
    else:
        shares = torch.ones([rows, tokens], dtype=hidden.dtype, device=hidden.device)
        if inside is not None:
            shares = inside.to(hidden.dtype)
        if weights.pooling == "last":  # only the token that no other follows
            shares = shares - F.pad(shares[:, 1:], [0, 1])
        pooled = (shares[:, None] @ hidden)[:, 0] / shares.sum(1, keepdim=True)
    split, cross = weights.split, weights.cross
    if split is not None:
        pooled = _product(pooled, split)
    queries = pooled.view(rows, -1, dim)
    query = _product(_normed(queries, cross.norm).flatten(0, 1), cross.query).view(
        rows, queries.size(1), cross.heads, -1
    )
    joined = _product(_normed(hidden, weights.token_norm).flatten(0, 1), cross.key_value)
    joined = joined.view(rows, tokens, 2 * cross.kv_heads, -1)
    key, value = joined[:, :, : cross.kv_heads], joined[:, :, cross.kv_heads :]
    if cross.kv_heads != cross.heads:
        key = key.repeat_interleave(cross.heads // cross.kv_heads, 2)
        value = value.repeat_interleave(cross.heads // cross.kv_heads, 2)
    found = F.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=None if inside is None else inside[:, None, None],
    )
    found = _add_product(queries.flatten(0, 1), found.transpose(1, 2).reshape(-1, dim), cross.out)
    return _product(found.view(rows, -1), weights.output)


stack = torch.jit.script(_stack)
"""States (R, d) through layers of self-attention and feed-forward; their keys and values are added to the cache."""
global_step = torch.jit.script(_global_step)
"""Patches (R, d_global) through the global transformer, its norm and, if there is one, `head`. What the decoder's
cross-attention needs of them goes into the prefix cache."""
decode = torch.jit.script(_decode)
"""Encoder states (R, d) to logits: the decoder with what its layers find in the prefix, norm and head."""
one_patch = torch.jit.script(_one_patch)
"""`PatchEncoder.patches` for one patch per row: token states (R, n, d) to (R, d_global). `inside` (R, n) bool: which of
the n are the row's own, first to last; None: all of them."""
