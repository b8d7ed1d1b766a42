"""Attention behind one interface: a mask goes in, a function of query, key and value comes out.

`plan(mask, backend)` does the work that all layers share (the dense mask, flex's block mask, xformers' bias) once per
batch; each layer then calls the plan. Back ends:

    sdpa      torch's scaled_dot_product_attention: the reference, with a dense boolean mask. On a CPU the queries of
              all rows go in blocks, each with only the keys that someone in the block sees.
    flex      torch's flex_attention: the mask is compiled, memory does not grow with its area. CUDA; on a CPU it runs
              uncompiled, for tests.
    xformers  memory-efficient kernels with block-diagonal biases, CUDA only.
    segments  the encoder's cross-attention as segment sums, linear in tokens (see `lst.model.segments`); any device.

`auto`: segments for the encoder's cross-attention, otherwise flex on CUDA and sdpa elsewhere.

A query that sees nothing (padding; the first token of a document before any patch) gets 0 from every back end.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lst.errors import LstError
from lst.model.masks import Mask, MemberMask
from lst.model.segments import Segments, segment_attention

Backend = Literal["auto", "sdpa", "flex", "xformers", "segments"]
BLOCK = 128
"""Queries, and keys, per block on a CPU: large enough for efficient kernels, small enough to skip unseen keys."""


class Attend(Protocol):
    """A planned attention: `query` (B, H, Q, D); `key`, `value` (B, G, K, D), G dividing H; returns (B, H, Q, D)."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor: ...


def plan(mask: Mask, backend: Backend = "auto") -> Attend:
    """Prepares attention under `mask` for all layers that use it.

    Raises `LstError` when the back end cannot do it: segments with another mask than the encoder's, xformers without a
    CUDA device or not installed.
    """
    if backend == "auto":
        if isinstance(mask, MemberMask):
            backend = "segments"
        else:
            backend = "flex" if mask.device.type == "cuda" else "sdpa"
    if backend == "sdpa":
        return BlockedAttention(mask) if mask.device.type == "cpu" else DenseAttention(mask)
    if backend == "flex":
        return FlexAttention(mask)
    if backend == "xformers":
        from lst.model.xformers_attention import XformersAttention

        return XformersAttention(mask)
    if not isinstance(mask, MemberMask):
        raise LstError("Attention back end 'segments' only does the encoder's cross-attention.", hint="Use 'auto'.")
    return SegmentAttention(mask)


class DenseAttention:
    """One call with the whole (B, Q, K) boolean mask: simple, and the reference for the others."""

    def __init__(self, mask: Mask) -> None:
        dense, seen = mask.dense(), mask.nonempty()
        # A row without any visible key would be 0/0: let it see all keys, and take its output away afterwards.
        self.dense = (dense | ~seen[:, :, None])[:, None]
        self.keep = seen[:, None, :, None]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        key, value = share_heads(key, query.shape[1]), share_heads(value, query.shape[1])
        if key.shape[2] == 0:
            return torch.zeros_like(query)
        out = scaled_dot_product_attention(query, key, value, attn_mask=self.dense)
        return out * self.keep.to(out.dtype)


class BlockedAttention:
    """The rows of a batch joined into one sequence, its queries in blocks, each with the key blocks it sees any of.

    Most of a dense mask over packed documents is empty, and on a CPU its area is time. Numerically this is the dense
    result: hidden keys have weight exactly 0 there, too.
    """

    def __init__(self, mask: Mask) -> None:
        batch, queries, keys = mask.shape
        offset = torch.arange(batch)[:, None] * keys
        first, last = (mask.first + offset).flatten(), (mask.last + offset).flatten()
        seen = last > first
        total = batch * keys
        self.blocks: list[tuple[int, int, Tensor] | None] = []
        for start in range(0, batch * queries, BLOCK):
            block = slice(start, start + BLOCK)
            if not bool(seen[block].any()):
                self.blocks.append(None)
                continue
            low = int(first[block][seen[block]].min()) // BLOCK
            high = -(-int(last[block][seen[block]].max()) // BLOCK)
            place = torch.arange(low * BLOCK, min(high * BLOCK, total))
            visible = (place >= first[block, None]) & (place < last[block, None]) | ~seen[block, None]
            bias = torch.zeros(visible.shape).masked_fill_(~visible, -torch.inf)
            self.blocks.append((low, high, bias[None, None]))
        self.keep = None if bool(seen.all()) else seen.view(batch, 1, queries, 1)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, heads, queries, width = query.shape
        joined = [_join_rows(states) for states in (query, share_heads(key, heads), share_heads(value, heads))]
        parts_q, parts_k, parts_v = (torch.split(states, BLOCK, dim=2) for states in joined)
        parts = []
        for part, block in zip(parts_q, self.blocks, strict=True):
            if block is None:
                parts.append(torch.zeros_like(part))
                continue
            low, high, bias = block
            # Joining the pieces copies a little, but its gradient adds pieces; that of a slice would add whole tensors.
            seen_k, seen_v = _pieces(parts_k, low, high), _pieces(parts_v, low, high)
            parts.append(scaled_dot_product_attention(part, seen_k, seen_v, attn_mask=bias.to(part.dtype)))
        out = _pieces(tuple(parts), 0, len(parts)) if parts else joined[0]
        out = out.transpose(1, 2).reshape(batch, queries, heads, width).transpose(1, 2)
        return out if self.keep is None else out * self.keep.to(out.dtype)


class FlexAttention:
    """flex_attention with the mask's own formula; compiled on CUDA."""

    def __init__(self, mask: Mask) -> None:
        from torch.nn.attention.flex_attention import create_block_mask

        batch, queries, keys = mask.shape

        def allowed(b: Tensor, _head: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return mask.allowed(b, q, k)

        self.block_mask = create_block_mask(allowed, batch, None, queries, keys, device=str(mask.device))
        self.hidden = ~mask.nonempty()[:, None, :, None]
        self.kernel = _flex_kernel(mask.device.type)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        key, value = share_heads(key, query.shape[1]), share_heads(value, query.shape[1])
        out: Tensor = self.kernel(query, key, value, block_mask=self.block_mask)
        return out.masked_fill(self.hidden, 0)


class SegmentAttention:
    """The encoder's cross-attention, linear in tokens."""

    def __init__(self, mask: MemberMask) -> None:
        self.segments = Segments.of(mask)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        heads = query.shape[1]
        return segment_attention(query, share_heads(key, heads), share_heads(value, heads), self.segments)


def share_heads(states: Tensor, heads: int) -> Tensor:
    """Repeats key or value heads (B, G, K, D) so that there is one for each of `heads` query heads."""
    return states if states.shape[1] == heads else states.repeat_interleave(heads // states.shape[1], dim=1)


def _join_rows(states: Tensor) -> Tensor:
    """(B, H, N, D) to (1, H, B * N, D). Free where the states were made as (B, N, H, D)."""
    _, heads, _, width = states.shape
    return states.transpose(1, 2).reshape(1, -1, heads, width).transpose(1, 2)


def _pieces(parts: tuple[Tensor, ...], low: int, high: int) -> Tensor:
    return parts[low] if high - low == 1 else torch.cat(parts[low:high], dim=2)


@cache
def _flex_kernel(device_type: str) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    kernel: Callable[..., Any] = flex_attention
    return kernel if device_type == "cpu" else torch.compile(kernel, dynamic=True)
