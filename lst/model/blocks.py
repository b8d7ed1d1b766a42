"""The blocks every part of the model is made of: RMSNorm, SwiGLU, rotary positions, attention (Llama's, no biases)."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lst.model.attention import Attend
from lst.model.config import TransformerConfig
from lst.model.kernels import rms_norm, rotate, swiglu
from lst.model.linear import Linear


class Rotation:
    """`cos` and `sin`, each (B, N, 1, head_dim / 2) float32: made once per batch and shared by all layers.

    Neither a tuple nor a dataclass: FSDP2 casts the tensors in those to a layer's precision, and angles need theirs.
    """

    __slots__ = ("cos", "sin")

    def __init__(self, cos: Tensor, sin: Tensor) -> None:
        self.cos = cos
        self.sin = sin

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.cos, self.sin))


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension, in float32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)); gate and up are one matrix."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate_up = Linear(config.dim, 2 * config.ffn_hidden)
        self.down = Linear(config.ffn_hidden, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(swiglu(self.gate_up(x)))  # type: ignore[no-any-return]


def rotation(positions: Tensor, head_dim: int, theta: float) -> Rotation:
    """Rotary cos and sin for integer `positions` (B, N)."""
    half = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float64)
    # float64: at position 10^5 a float32 angle is off by 10^-2 in the fastest pair.
    angles = positions[:, :, None, None].double() * theta ** (-half / head_dim)
    return Rotation(angles.cos().float(), angles.sin().float())


class SelfAttention(nn.Module):
    """Grouped-query self-attention with rotary positions; query, key and value are one matrix."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.num_kv_heads, config.head_dim
        self.qkv = Linear(config.dim, (self.heads + 2 * self.kv_heads) * self.head_dim)
        self.out = Linear(config.dim, config.dim)

    def project(self, x: Tensor, turn: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Query (B, H, N, D), key and value (B, G, N, D) of states `x` (B, N, dim)."""
        joined = self.qkv(x).unflatten(-1, (-1, self.head_dim))
        turned = rotate(joined, turn.cos, turn.sin, heads=self.heads + self.kv_heads)
        query, key, value = torch.split(turned, [self.heads, self.kv_heads, self.kv_heads], dim=2)
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)

    def merge(self, attended: Tensor) -> Tensor:
        """(B, H, N, D) of all heads back to (B, N, dim)."""
        return self.out(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def forward(self, x: Tensor, turn: Rotation, attend: Attend) -> Tensor:
        return self.merge(attend(*self.project(x, turn)))


class CrossAttention(nn.Module):
    """Attention from states of width `config.dim` to others of width `source_dim`; positions are optional."""

    def __init__(self, config: TransformerConfig, source_dim: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.num_kv_heads, config.head_dim
        self.query = Linear(config.dim, config.dim)
        self.key_value = Linear(source_dim, 2 * self.kv_heads * self.head_dim)
        self.out = Linear(config.dim, config.dim)

    def project_query(self, x: Tensor, turn: Rotation | None = None) -> Tensor:
        """(B, N, dim) -> (B, H, N, D)."""
        query = self.query(x).unflatten(-1, (self.heads, self.head_dim))
        return (query if turn is None else rotate(query, turn.cos, turn.sin)).transpose(1, 2)

    def project_source(self, source: Tensor, turn: Rotation | None = None) -> tuple[Tensor, Tensor]:
        """(B, K, source_dim) -> key and value (B, G, K, D)."""
        joined = self.key_value(source).unflatten(-1, (2 * self.kv_heads, self.head_dim))
        if turn is not None:
            joined = rotate(joined, turn.cos, turn.sin, heads=self.kv_heads)
        key, value = joined.chunk(2, dim=2)
        return key.transpose(1, 2), value.transpose(1, 2)

    def merge(self, attended: Tensor) -> Tensor:
        """(B, H, N, D) of all heads back to (B, N, dim)."""
        return self.out(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def forward(
        self,
        x: Tensor,
        source: Tensor,
        attend: Attend,
        query_turn: Rotation | None = None,
        key_turn: Rotation | None = None,
    ) -> Tensor:
        key, value = self.project_source(source, key_turn)
        return self.merge(attend(self.project_query(x, query_turn), key, value))


class TransformerLayer(nn.Module):
    """Pre-norm self-attention and feed-forward, each added to its input."""

    def __init__(self, config: TransformerConfig, eps: float) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, eps)
        self.attention = SelfAttention(config)
        self.ffn_norm = RMSNorm(config.dim, eps)
        self.ffn = FeedForward(config)

    def forward(self, x: Tensor, turn: Rotation, attend: Attend) -> Tensor:
        x = x + self.attention(self.attention_norm(x), turn, attend)
        out: Tensor = x + self.ffn(self.ffn_norm(x))
        return out


class Transformer(nn.Module):
    """A stack of layers and a final norm: the global transformer, and alone the base SpeechLLM's body."""

    def __init__(self, config: TransformerConfig, eps: float) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(TransformerLayer(config, eps) for _ in range(config.layers))
        self.norm = RMSNorm(config.dim, eps)

    def forward(self, x: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """`x` (B, N, dim), `positions` (B, N) within the document. Returns normed states (B, N, dim)."""
        turn = rotation(positions, self.config.head_dim, self.config.rope_theta)
        for layer in self.layers:
            x = layer(x, turn, attend)
        return self.norm(x)  # type: ignore[no-any-return]
