"""The layers of the model for one new token per document.

The same weights and the same algebra as `lst.model.blocks` and `lst.model.local`, compiled by TorchScript: for a single
token a layer is some forty tiny operations between four products that read all its weights, and Python would take as
long over the former as the memory over the latter (benchmarks/NOTES.md). The compiled modules hold the weights, which
are many: as arguments they would be converted at every call. States are (R, d), one row per document. Tests hold the
results equal to the full forward pass.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lst.model.blocks import CrossAttention, RMSNorm, TransformerLayer, rotation
from lst.model.kv import Places
from lst.model.linear import Linear
from lst.model.local import DecoderLayer, PatchDecoder, PatchEncoder
from lst.model.lst import LST

Step = Callable[..., Tensor]
"""The forward function of one of the modules below, as TorchScript."""


def turn_table(positions: int, head_dim: int, theta: float, device: torch.device) -> Tensor:
    """Rotations at positions 0.. `positions` - 1: cos and sin, (positions, 2, 1, head_dim).

    The first half of the sines is negated (see `_turned`). All are times head_dim^-1/4, so that the scores of turned
    queries and keys are scaled.
    """
    cos, sin = (part[0] for part in rotation(torch.arange(positions, device=device)[None], head_dim, theta))
    table = torch.stack([torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)], dim=1)
    return table.mul_(head_dim**-0.25)


class Products(nn.Module):
    """One linear layer of every layer of a stack: (R, in) to (R, out) by the matrix of layer `number`."""

    packed: Final[bool]
    for_one: Final[bool]

    def __init__(self, linears: Sequence[Linear], first: int = 0) -> None:
        """`first`: only the outputs from there on."""
        super().__init__()
        layouts = [linear.layout(first) for linear in linears]
        self.weights = [layout.weight for layout in layouts]
        self.contexts = [layout.for_one for layout in layouts]
        self.packed = layouts[0].packed
        self.for_one = layouts[0].for_one is not None

    def forward(self, x: Tensor, number: int) -> Tensor:
        if self.for_one and x.size(0) == 1:
            one: Tensor = torch.ops.prepacked.linear_clamp_run(x, self.contexts[number])
            return one
        if self.packed:
            out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weights[number], None, "none", [], "")
            return out
        return F.linear(x, self.weights[number])


class Norms(nn.Module):
    """One RMSNorm of every layer of a stack: sqrt(mean(x^2) + eps) is hypot(|x|, sqrt(d eps)) / sqrt(d)."""

    def __init__(self, norms: Sequence[RMSNorm]) -> None:
        super().__init__()
        dim = len(norms[0].weight)
        self.weights = [norm.weight.detach().float() * math.sqrt(dim) for norm in norms]
        self.floor = self.weights[0].new_tensor(math.sqrt(dim * norms[0].eps))

    def forward(self, x: Tensor, number: int) -> Tensor:
        wide = x if x.dtype == torch.float32 else x.float()
        length = torch.hypot(torch.linalg.vector_norm(wide, 2, [-1], True), self.floor)
        normed = (wide * self.weights[number]).div_(length)
        return normed if x.dtype == torch.float32 else normed.to(x.dtype)


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


class TokenLayers(nn.Module):
    """Self-attention and feed-forward of every layer of a stack."""

    heads: Final[int]
    kv_heads: Final[int]

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        all_layers = [cast(TransformerLayer | DecoderLayer, layer) for layer in layers]
        self.attention_norm = Norms([layer.attention_norm for layer in all_layers])
        self.qkv = Products([layer.attention.qkv for layer in all_layers])
        self.out = Products([layer.attention.out for layer in all_layers])
        self.ffn_norm = Norms([layer.ffn_norm for layer in all_layers])
        self.gate_up = Products([layer.ffn.gate_up for layer in all_layers])
        self.down = Products([layer.ffn.down for layer in all_layers])
        self.heads, self.kv_heads = all_layers[0].attention.heads, all_layers[0].attention.kv_heads

    def forward(self, x: Tensor, number: int, turn: Tensor, keys: Tensor, values: Tensor, places: Places) -> Tensor:
        """Layer `number`; `keys`, `values` (R * G, N, D) are its own."""
        joined = self.qkv(self.attention_norm(x, number), number)
        both = self.heads + self.kv_heads
        joined = joined.view(x.size(0), both + self.kv_heads, -1)
        turned = _turned(joined[:, :both], turn)
        _write(turned[:, self.heads :], joined[:, both:], keys, values, places)
        x = x + self.out(_read(turned[:, : self.heads], keys, values, places), number)
        gate, up = self.gate_up(self.ffn_norm(x, number), number).chunk(2, -1)
        out: Tensor = x + self.down(F.silu(gate).mul_(up), number)
        return out


class EncoderStep(nn.Module):
    """Embeddings (R, d) to the encoder's states; their keys and values are added to the cache."""

    count: Final[int]

    def __init__(self, encoder: PatchEncoder) -> None:
        super().__init__()
        self.layers = TokenLayers(encoder.layers)
        self.count = len(encoder.layers)

    def forward(self, x: Tensor, turn: Tensor, keys: Tensor, values: Tensor, places: Places) -> Tensor:
        for number in range(self.count):
            x = self.layers(x, number, turn, keys[number], values[number], places)
        return x


class PatchStep(nn.Module):
    """`PatchEncoder.patches` for one patch per row: token states (R, n, d) to (R, d_global)."""

    pooling: Final[str]
    several: Final[bool]
    heads: Final[int]
    kv_heads: Final[int]

    def __init__(self, encoder: PatchEncoder) -> None:
        super().__init__()
        cross = encoder.cross
        self.pooling = encoder.pooling
        self.several = encoder.split is not None
        self.split = None if encoder.split is None else Products([encoder.split])
        self.token_norm, self.query_norm = Norms([encoder.token_norm]), Norms([encoder.query_norm])
        self.query, self.key_value = Products([cross.query]), Products([cross.key_value])
        self.out, self.output = Products([cross.out]), Products([encoder.output])
        self.heads, self.kv_heads = cross.heads, cross.kv_heads

    def forward(self, hidden: Tensor, inside: Tensor | None) -> Tensor:
        """`inside` (R, n) bool: which of the n are the row's own, first to last; None: all of them."""
        rows, tokens, dim = hidden.size(0), hidden.size(1), hidden.size(2)
        pooled = self._pooled(hidden, inside)
        if self.split is not None:
            pooled = self.split(pooled, 0)
        queries = pooled.view(-1, dim)
        query = self.query(self.query_norm(queries, 0), 0).view(rows, -1, self.heads, dim // self.heads)
        joined = self.key_value(self.token_norm(hidden, 0).flatten(0, 1), 0)
        joined = joined.view(rows, tokens, 2 * self.kv_heads, -1)
        key, value = joined[:, :, : self.kv_heads], joined[:, :, self.kv_heads :]
        if self.kv_heads != self.heads:
            key = key.repeat_interleave(self.heads // self.kv_heads, 2)
            value = value.repeat_interleave(self.heads // self.kv_heads, 2)
        found = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=None if inside is None else inside[:, None, None],
        )
        found = queries + self.out(found.transpose(1, 2).reshape(-1, dim), 0)
        patch: Tensor = self.output(found.view(rows, -1), 0)
        return patch

    def _pooled(self, hidden: Tensor, inside: Tensor | None) -> Tensor:
        """(R, d)."""
        if self.pooling == "max":
            return (hidden if inside is None else hidden.masked_fill(~inside[:, :, None], -float("inf"))).amax(1)
        shares = torch.ones([hidden.size(0), hidden.size(1)], dtype=hidden.dtype, device=hidden.device)
        if inside is not None:
            shares = inside.to(hidden.dtype)
        if self.pooling == "last":  # only the token that no other follows
            shares = shares - F.pad(shares[:, 1:], [0, 1])
        return (shares[:, None] @ hidden)[:, 0] / shares.sum(1, keepdim=True)


class GlobalStep(nn.Module):
    """Patches (R, d_global) through the global transformer and its norm; with `by_head`, to logits (R, V).

    What the decoder's cross-attention needs of them goes into the prefix cache.
    """

    count: Final[int]
    cross_count: Final[int]
    kv_heads: Final[int]

    def __init__(self, model: LST, first: int) -> None:
        """`first`: of the ids that have logits."""
        super().__init__()
        head = model.head if model.encoder is None else model.text_head
        self.layers = TokenLayers(model.global_transformer.layers)
        self.count = len(model.global_transformer.layers)
        self.norm = Norms([model.global_transformer.norm])
        self.head = None if head is None else Products([head], first)
        crosses = [] if model.decoder is None else _crosses(model.decoder)
        self.key_value = Products([cross.key_value for cross in crosses]) if crosses else None
        self.cross_count, self.kv_heads = len(crosses), crosses[0].kv_heads if crosses else 0

    def forward(
        self,
        x: Tensor,
        by_head: bool,
        turn: Tensor,
        keys: Tensor,
        values: Tensor,
        places: Places,
        cross_turn: Tensor | None,
        prefix_keys: Tensor | None,
        prefix_values: Tensor | None,
        prefix_places: Places | None,
    ) -> Tensor:
        for number in range(self.count):
            x = self.layers(x, number, turn, keys[number], values[number], places)
        out: Tensor = self.norm(x, 0)
        if self.key_value is not None:
            assert cross_turn is not None
            assert prefix_keys is not None
            assert prefix_values is not None
            assert prefix_places is not None
            for number in range(self.cross_count):
                joined = self.key_value(out, number).view(out.size(0), 2 * self.kv_heads, -1)
                key, value = _turned(joined[:, : self.kv_heads], cross_turn), joined[:, self.kv_heads :]
                _write(key, value, prefix_keys[number], prefix_values[number], prefix_places)
        if self.head is not None and by_head:
            out = self.head(out, 0).float()
        return out


class DecoderStep(nn.Module):
    """The encoder's states (R, d) to logits (R, V): the layers with what they find in the prefix, norm and head."""

    count: Final[int]
    heads: Final[int]

    def __init__(self, decoder: PatchDecoder, head: Linear, first: int) -> None:
        """`first`: of the ids that have logits."""
        super().__init__()
        crosses = _crosses(decoder)
        self.widen = Products([decoder.input]) if isinstance(decoder.input, Linear) else None
        self.cross_norm = Norms([cast(DecoderLayer, layer).cross_norm for layer in decoder.layers])
        self.query = Products([cross.query for cross in crosses])
        self.out = Products([cross.out for cross in crosses])
        self.layers = TokenLayers(decoder.layers)
        self.count, self.heads = len(crosses), crosses[0].heads
        self.norm = Norms([decoder.norm])
        self.head = Products([head], first)

    def forward(
        self,
        x: Tensor,
        turn: Tensor,
        keys: Tensor,
        values: Tensor,
        places: Places,
        cross_turn: Tensor,
        prefix_keys: Tensor,
        prefix_values: Tensor,
        prefix_places: Places,
    ) -> Tensor:
        if self.widen is not None:
            x = self.widen(x, 0)
        for number in range(self.count):
            query = self.query(self.cross_norm(x, number), number).view(x.size(0), self.heads, -1)
            query = _turned(query, cross_turn)
            x = x + self.out(_read(query, prefix_keys[number], prefix_values[number], prefix_places), number)
            x = self.layers(x, number, turn, keys[number], values[number], places)
        logits: Tensor = self.head(self.norm(x, 0), 0).float()
        return logits


def _crosses(decoder: PatchDecoder) -> list[CrossAttention]:
    return [cast(DecoderLayer, layer).cross for layer in decoder.layers]


class Steps(NamedTuple):
    """The compiled steps of a model; the last three are None without local modules."""

    by_one_thread: bool
    """Whether one thread is best for a step of one row (`lst.model.linear.pack`)."""
    of_global: Step
    encode: Step | None
    patch: Step | None
    decode: Step | None

    @staticmethod
    def of(model: LST, first: int = 0) -> "Steps":
        """`first`: of the ids that have logits. Kept for a packed model, whose weights no longer change."""
        kept = _kept.setdefault(model, {}) if model.head.packed is not None else {}
        if first not in kept:
            kept[first] = Steps._made(model, first)
        return kept[first]

    @staticmethod
    def _made(model: LST, first: int) -> "Steps":
        encoder, decoder = model.encoder, model.decoder
        layout = model.head.packed
        alone = layout is not None and layout.for_one is not None
        of_global = _compiled(GlobalStep(model, first))
        if encoder is None or decoder is None:
            return Steps(alone, of_global, None, None, None)
        local = (EncoderStep(encoder), PatchStep(encoder), DecoderStep(decoder, model.head, first))
        return Steps(alone, of_global, *map(_compiled, local))


_kept: WeakKeyDictionary[LST, dict[int, Steps]] = WeakKeyDictionary()


def _compiled(step: nn.Module) -> Step:
    forward: Step = torch.jit.script(step).forward
    return forward
