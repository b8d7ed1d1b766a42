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

from lst.model.attention import share_heads
from lst.model.blocks import RMSNorm, TransformerLayer, rotation
from lst.model.kv import Places
from lst.model.linear import Linear
from lst.model.local import DecoderLayer, PatchEncoder

Turn = tuple[Tensor, Tensor]
"""cos and sin of each row's position, (R, 1, head_dim) or (1, 1, head_dim); the first half of the sines is negated."""


def turn_table(positions: int, head_dim: int, theta: float, device: torch.device) -> Turn:
    """cos and sin of `Turn` for positions 0.. `positions` - 1, each (positions, 1, head_dim)."""
    cos, sin = (part[0] for part in rotation(torch.arange(positions, device=device)[None], head_dim, theta))
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


class Matrix(NamedTuple):
    """The weight of a linear layer, as it is or packed (`lst.model.linear.pack`)."""

    weight: Tensor
    packed: bool

    @staticmethod
    def of(layer: Linear) -> "Matrix":
        return Matrix(layer.weight.detach(), False) if layer.packed is None else Matrix(layer.packed, True)


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
    """Cross-attention of a decoder layer."""

    norm: Norm
    query: Matrix
    key_value: Matrix
    out: Matrix
    heads: int
    kv_heads: int

    @staticmethod
    def of(layer: DecoderLayer) -> "CrossWeights":
        cross = layer.cross
        return CrossWeights(
            Norm.of(layer.cross_norm),
            Matrix.of(cross.query),
            Matrix.of(cross.key_value),
            Matrix.of(cross.out),
            cross.heads,
            cross.kv_heads,
        )


def _product(x: Tensor, matrix: Matrix) -> Tensor:
    if matrix.packed:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, matrix.weight, None, "none", [], "")
        return out
    return F.linear(x, matrix.weight)


def _normed(x: Tensor, norm: Norm) -> Tensor:
    """RMSNorm: sqrt(mean(x^2) + eps) is hypot(|x|, sqrt(d eps)) / sqrt(d)."""
    wide = x.float()
    length = torch.norm(wide, 2, [-1], True)
    return (wide * norm.weight).div_(torch.hypot(length, norm.floor)).to(x.dtype)


def _turned(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`lst.model.kernels.rotate` for heads (R, H, D)."""
    rolled = states.roll(states.size(-1) // 2, -1)
    return (states * cos).addcmul_(rolled, sin).to(states.dtype)


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
    grouped = query.reshape(seen_keys.size(0), -1, width) * width**-0.5
    scores = torch.bmm(grouped, seen_keys.transpose(1, 2))
    if bias is not None:
        scores = scores + bias
    weights = torch.softmax(scores, -1, torch.float32).to(values.dtype)
    out = torch.bmm(weights, seen_values).view(rows, heads * width)
    return out if keep is None else out * keep


def _token_layer(
    x: Tensor, weights: LayerWeights, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, places: Places
) -> Tensor:
    joined = _product(_normed(x, weights.attention_norm), weights.qkv)
    both = weights.heads + weights.kv_heads
    joined = joined.view(x.size(0), both + weights.kv_heads, -1)
    turned = _turned(joined[:, :both], cos, sin)
    _write(turned[:, weights.heads :], joined[:, both:], keys, values, places)
    x = x + _product(_read(turned[:, : weights.heads], keys, values, places), weights.out)
    gate, up = _product(_normed(x, weights.ffn_norm), weights.gate_up).chunk(2, -1)
    return x + _product(F.silu(gate).mul_(up), weights.down)


def _remember(
    patch: Tensor,
    weights: CrossWeights,
    cos: Tensor | None,
    sin: Tensor | None,
    keys: Tensor,
    values: Tensor,
    places: Places,
) -> None:
    joined = _product(patch, weights.key_value).view(patch.size(0), 2 * weights.kv_heads, -1)
    key = joined[:, : weights.kv_heads]
    if cos is not None and sin is not None:
        key = _turned(key, cos, sin)
    _write(key, joined[:, weights.kv_heads :], keys, values, places)


def _look(
    x: Tensor,
    weights: CrossWeights,
    cos: Tensor | None,
    sin: Tensor | None,
    keys: Tensor,
    values: Tensor,
    places: Places,
) -> Tensor:
    query = _product(_normed(x, weights.norm), weights.query).view(x.size(0), weights.heads, -1)
    if cos is not None and sin is not None:
        query = _turned(query, cos, sin)
    return x + _product(_read(query, keys, values, places), weights.out)


token_layer = torch.jit.script(_token_layer)
"""States (R, d) through self-attention and feed-forward; the tokens' keys and values are added to the cache."""
remember = torch.jit.script(_remember)
"""Adds the cross-attention's keys and values of global outputs (R, d_global) to the cache."""
look = torch.jit.script(_look)
"""States (R, d) with what they find in the patches added."""


def one_patch(encoder: PatchEncoder, hidden: Tensor, inside: Tensor | None) -> Tensor:
    """`PatchEncoder.patches` for one patch per row: token states (R, n, d) to (R, d_global).

    `inside` (R, n) bool: which of the n are the row's own, first to last; None: all of them.
    """
    if encoder.pooling == "max":
        pooled = (hidden if inside is None else hidden.masked_fill(~inside[:, :, None], -torch.inf)).amax(1)
    else:
        weights = hidden.new_ones(hidden.shape[:2]) if inside is None else inside.to(hidden.dtype)
        if encoder.pooling == "last":  # only the token that no other follows
            weights = weights - F.pad(weights[:, 1:], (0, 1))
        pooled = (weights[:, None] @ hidden)[:, 0] / weights.sum(1, keepdim=True)
    mask = None if inside is None else inside[:, None, None]

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        heads = query.shape[1]
        key, value = share_heads(key, heads), share_heads(value, heads)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)

    query = encoder.initial_queries(pooled[:, None])
    attended = encoder.cross(encoder.query_norm(query), encoder.token_norm(hidden), attend)
    return encoder.finish(query, attended)[:, 0]
