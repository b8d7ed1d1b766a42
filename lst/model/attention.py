"""Attention behind one interface: a mask goes in, a function of query, key and value comes out.

`plan(mask, backend)` does the work that all layers share (the dense mask, flex's block mask, xformers' bias) once per
batch; each layer then calls the plan. Back ends:

    sdpa      torch's scaled_dot_product_attention with a boolean mask: the reference, and what a CPU uses. Long
              queries go in blocks that skip the keys nobody in the block sees.
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
"""Queries per block of the sdpa back end: large enough for efficient kernels, small enough to skip unseen keys."""


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
        return SdpaAttention(mask)
    if backend == "flex":
        return FlexAttention(mask)
    if backend == "xformers":
        from lst.model.xformers_attention import XformersAttention

        return XformersAttention(mask)
    if not isinstance(mask, MemberMask):
        raise LstError("Attention back end 'segments' only does the encoder's cross-attention.", hint="Use 'auto'.")
    return SegmentAttention(mask)


class SdpaAttention:
    """Dense masks, in blocks of queries that leave out keys no query of the block sees."""

    def __init__(self, mask: Mask) -> None:
        dense = mask.dense()
        seen = mask.nonempty()
        # A row without any visible key would be 0/0: let it see key 0, and take its output away afterwards.
        if dense.shape[2]:
            dense = torch.cat([dense[:, :, :1] | ~seen[:, :, None], dense[:, :, 1:]], dim=2)
        self.keep = seen[:, None, :, None]
        self.blocks = [
            (first, last, low, high, dense[:, None, first:last, low:high]) for first, last, low, high in _blocks(dense)
        ]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        key, value = _share_heads(key, query.shape[1]), _share_heads(value, query.shape[1])
        if key.shape[2] == 0:
            return torch.zeros_like(query)
        parts = [
            scaled_dot_product_attention(
                query[:, :, first:last], key[:, :, low:high], value[:, :, low:high], attn_mask=visible
            )
            for first, last, low, high, visible in self.blocks
        ]
        out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
        return out * self.keep.to(out.dtype)


class FlexAttention:
    """flex_attention with the mask's own formula; compiled on CUDA."""

    def __init__(self, mask: Mask) -> None:
        from torch.nn.attention.flex_attention import create_block_mask

        batch, queries, keys = mask.shape

        def allowed(b: Tensor, _head: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return mask.allowed(b, q, k)

        self.block_mask = create_block_mask(allowed, batch, None, queries, keys, device=str(mask.device))
        self.keep = mask.nonempty()[:, None, :, None]
        self.kernel = _flex_kernel(mask.device.type)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        key, value = _share_heads(key, query.shape[1]), _share_heads(value, query.shape[1])
        out: Tensor = self.kernel(query, key, value, block_mask=self.block_mask)
        return out.masked_fill(~self.keep, 0)


class SegmentAttention:
    """The encoder's cross-attention, linear in tokens."""

    def __init__(self, mask: MemberMask) -> None:
        self.segments = Segments.of(mask)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        heads = query.shape[1]
        return segment_attention(query, _share_heads(key, heads), _share_heads(value, heads), self.segments)


def _share_heads(states: Tensor, heads: int) -> Tensor:
    """Repeats key or value heads (B, G, K, D) so that there is one for each of `heads` query heads."""
    return states if states.shape[1] == heads else states.repeat_interleave(heads // states.shape[1], dim=1)


def _blocks(dense: Tensor) -> list[tuple[int, int, int, int]]:
    """Query ranges with the range of keys that any of their queries sees: (first, last, low, high)."""
    _, queries, keys = dense.shape
    if dense.device.type != "cpu" or queries <= BLOCK:
        # Finding the ranges would wait for the device, and its kernels prefer one large call.
        return [(0, queries, 0, keys)]
    used = dense.any(dim=0)
    ranges = []
    for first in range(0, queries, BLOCK):
        last = min(queries, first + BLOCK)
        columns = used[first:last].any(dim=0).nonzero()
        low, high = (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, 1)
        ranges.append((first, last, low, high))
    return ranges


@cache
def _flex_kernel(device_type: str) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    kernel: Callable[..., Any] = flex_attention
    return kernel if device_type == "cpu" else torch.compile(kernel, dynamic=True)
