"""The layers of the model for one new token per document.

The same weights and the same algebra as `lst.model.blocks` and `lst.model.local`, with as few operations as it takes:
for a single token their overhead, and that of modules calling modules, is most of the time. States are (R, d), one row
per document. Tests hold the results equal to the full forward pass.
"""

import math
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from lst.model.attention import share_heads
from lst.model.blocks import FeedForward, RMSNorm, SelfAttention, Transformer, TransformerLayer, rotation
from lst.model.kernels import swiglu
from lst.model.kv import Step
from lst.model.local import DecoderLayer, PatchDecoder, PatchEncoder

Turn = tuple[Tensor, Tensor]
"""cos and sin of each row's position, (R, 1, head_dim) or (1, 1, head_dim); the first half of the sines is negated."""


def turn_table(positions: int, head_dim: int, theta: float, device: torch.device) -> Turn:
    """cos and sin of `Turn` for positions 0.. `positions` - 1, each (positions, 1, head_dim)."""
    cos, sin = (part[0] for part in rotation(torch.arange(positions, device=device)[None], head_dim, theta))
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def turned(states: Tensor, turn: Turn) -> Tensor:
    """`lst.model.kernels.rotate` for heads (R, H, D)."""
    cos, sin = turn
    return (states * cos).addcmul_(states.roll(states.shape[-1] // 2, -1), sin).to(states.dtype)


class TokenLayer:
    """Self-attention and feed-forward of a layer. The layer must have its final weights, laid out or not."""

    def __init__(self, layer: TransformerLayer | DecoderLayer) -> None:
        attention: SelfAttention = layer.attention
        ffn: FeedForward = layer.ffn
        self.attention_norm, self.ffn_norm = _Norm(layer.attention_norm), _Norm(layer.ffn_norm)
        self.qkv, self.out = attention.qkv.kernel(), attention.out.kernel()
        self.gate_up, self.down = ffn.gate_up.kernel(), ffn.down.kernel()
        self.heads, self.kv_heads, self.head_dim = attention.heads, attention.kv_heads, attention.head_dim

    def __call__(self, x: Tensor, turn: Turn, step: Step, number: int) -> Tensor:
        """States (R, d) to states: keys and values of the token are added to layer `number` of the cache."""
        joined = self.qkv(self.attention_norm(x)).view(len(x), -1, self.head_dim)
        both = self.heads + self.kv_heads
        query_key = turned(joined[:, :both], turn)
        step.write(number, query_key[:, self.heads :], joined[:, both:])
        x = x + self.out(step.read(number, query_key[:, : self.heads]))
        return x + self.down(swiglu(self.gate_up(self.ffn_norm(x))))


class TokenDecoderLayer(TokenLayer):
    """A decoder layer: cross-attention to the patches seen so far comes first."""

    def __init__(self, layer: DecoderLayer) -> None:
        super().__init__(layer)
        cross = layer.cross
        self.cross_norm = _Norm(layer.cross_norm)
        self.query, self.key_value, self.cross_out = cross.query.kernel(), cross.key_value.kernel(), cross.out.kernel()
        self.cross_kv_heads = cross.kv_heads

    def remember(self, patch: Tensor, turn: Turn | None, step: Step, number: int) -> None:
        """Adds keys and values of global outputs (R, d_global) to layer `number` of the cache."""
        joined = self.key_value(patch).view(len(patch), -1, self.head_dim)
        key = joined[:, : self.cross_kv_heads]
        step.write(number, key if turn is None else turned(key, turn), joined[:, self.cross_kv_heads :])

    def look(self, x: Tensor, turn: Turn | None, step: Step, number: int) -> Tensor:
        """States (R, d) with what they find in the patches added."""
        query = self.query(self.cross_norm(x)).view(len(x), -1, self.head_dim)
        return x + self.cross_out(step.read(number, query if turn is None else turned(query, turn)))


def token_layers(stack: Transformer | PatchEncoder) -> list[TokenLayer]:
    """The layers of a stack."""
    return [TokenLayer(cast(TransformerLayer, layer)) for layer in stack.layers]


def token_decoder_layers(decoder: PatchDecoder) -> list[TokenDecoderLayer]:
    """The layers of the patch decoder."""
    return [TokenDecoderLayer(cast(DecoderLayer, layer)) for layer in decoder.layers]


def one_patch(encoder: PatchEncoder, hidden: Tensor, inside: Tensor | None) -> Tensor:
    """`PatchEncoder.patches` for one patch per row: token states (R, n, d) to (R, d_global).

    `inside` (R, n) bool: which of the n are the row's own, first to last; None: all of them.
    """
    if encoder.pooling == "max":
        pooled = (hidden if inside is None else hidden.masked_fill(~inside[:, :, None], -torch.inf)).amax(1)
    else:
        weights = hidden.new_ones(hidden.shape[:2]) if inside is None else inside.to(hidden.dtype)
        if encoder.pooling == "last":  # only the token that no other follows
            weights = weights - pad(weights[:, 1:], (0, 1))
        pooled = (weights[:, None] @ hidden)[:, 0] / weights.sum(1, keepdim=True)
    mask = None if inside is None else inside[:, None, None]

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        heads = query.shape[1]
        return scaled_dot_product_attention(query, share_heads(key, heads), share_heads(value, heads), attn_mask=mask)

    query = encoder.initial_queries(pooled[:, None])
    attended = encoder.cross(encoder.query_norm(query), encoder.token_norm(hidden), attend)
    return encoder.finish(query, attended)[:, 0]


class _Norm:
    """`lst.model.kernels.rms_norm` in four operations: sqrt(mean(x^2) + eps) is hypot(|x|, sqrt(d eps)) / sqrt(d)."""

    def __init__(self, norm: RMSNorm) -> None:
        dim = len(norm.weight)
        self.weight: Tensor = norm.weight.detach().float() * math.sqrt(dim)
        self.floor = self.weight.new_tensor(math.sqrt(dim * norm.eps))

    def __call__(self, x: Tensor) -> Tensor:
        wide = x.float()
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        return (wide * self.weight).div_(length.hypot_(self.floor)).to(x.dtype)
