"""Attention behind one interface: a mask goes in, a function of query, key and value comes out.

`plan(mask, backend)` does the work that all layers share (the dense mask, flex's block mask, xformers' bias) once per
batch; each layer then calls the plan. Back ends:

    dense     torch's scaled_dot_product_attention with the whole boolean mask: the reference.
    sdpa      the same on a GPU. On a CPU its kernel is called for blocks of queries, each with only the keys that
              someone in the block sees.
    flex      torch's flex_attention: the mask is compiled, memory does not grow with its area. CUDA; on a CPU it runs
              uncompiled, for tests.
    xformers  memory-efficient kernels with block-diagonal biases, CUDA only.
    segments  the encoder's cross-attention as segment sums, linear in tokens (see `lst.model.segments`); any device.

`auto`: segments for the encoder's cross-attention, otherwise sdpa, but on CUDA flex where the mask is large.

A query that sees nothing (padding; the first token of a document before any patch) gets 0 from every back end.
"""

import itertools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lst.errors import LstError
from lst.model.masks import Mask, MemberMask
from lst.model.segments import Segments, segment_attention

Backend = Literal["auto", "dense", "sdpa", "flex", "xformers", "segments"]
BLOCK = 64
"""Queries of a document per block on a CPU: large enough for efficient kernels, small enough to skip unseen keys."""
CALL = 1024
"""Query-key pairs that take about as long as one more call of the kernel: blocks that waste fewer are joined."""

DENSE_ENTRIES = 1 << 28
"""Entries of a mask (B x Q x K) up to which it is kept whole on a GPU: there flex is slower (benchmarks/NOTES.md)."""


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
            large = math.prod(mask.shape) > DENSE_ENTRIES
            backend = "flex" if mask.device.type == "cuda" and large else "sdpa"
    if backend == "dense" or (backend == "sdpa" and mask.device.type != "cpu"):
        return DenseAttention(mask)
    if backend == "sdpa":
        return BlockedAttention(mask)
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
        with _without_cudnn(query):
            out = scaled_dot_product_attention(query, key, value, attn_mask=self.dense)
        return out * self.keep.to(out.dtype)


@dataclass(frozen=True)
class _Range:
    """Queries first..last-1 of the joined rows see keys low..high-1: all of the keys that any of them sees."""

    first: int
    last: int
    low: int
    high: int

    @property
    def area(self) -> int:
        return (self.last - self.first) * (self.high - self.low)

    def __or__(self, other: "_Range") -> "_Range":
        return _Range(
            min(self.first, other.first),
            max(self.last, other.last),
            min(self.low, other.low),
            max(self.high, other.high),
        )


@dataclass(frozen=True)
class _Block:
    """The attention of a range under an additive `bias` (1, 1, queries, keys)."""

    range: _Range
    bias: Tensor


class BlockedAttention:
    """The rows of a batch joined into one sequence, its queries in blocks, each with the range of keys it sees any of.

    Most of a dense mask over packed documents is empty, and on a CPU its area is time. Numerically this is the dense
    result: hidden keys have weight exactly 0 there, too.
    """

    def __init__(self, mask: Mask) -> None:
        batch, _, keys = mask.shape
        place = torch.arange(batch * keys)
        offset = torch.arange(batch)[:, None] * keys
        first, last = (mask.first + offset).flatten(), (mask.last + offset).flatten()
        seen = last > first
        # A query that sees nothing would be 0/0: let it see all keys, and take its output away afterwards.
        low, high = torch.where(seen, first, 0)[:, None], torch.where(seen, last, batch * keys)[:, None]
        self.blocks = []
        for part in _ranges(first, last):
            rows, among = slice(part.first, part.last), place[part.low : part.high]
            visible = (among >= low[rows]) & (among < high[rows])
            self.blocks.append(_Block(part, torch.where(visible, 0.0, -torch.inf)[None, None]))
        self.keep = None if bool(seen.all()) else seen[None, None, :, None].float()

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, heads, queries, width = query.shape
        joined = [_join_rows(states) for states in (query, share_heads(key, heads), share_heads(value, heads))]
        out: Tensor = _Blocked.apply(*joined, self.blocks, self.keep)  # type: ignore[no-untyped-call]
        return out.transpose(1, 2).reshape(batch, queries, heads, width).transpose(1, 2)


def _ranges(first: Tensor, last: Tensor) -> list[_Range]:
    """Queries that see something, (N,) `first` to `last`, in ranges of at most `BLOCK` that do not cross documents,
    and then neighbours joined where that wastes little: short documents, and the few last queries of a long one."""
    places = (last > first).nonzero().flatten()
    low, high = first[places], last[places]
    # A query that sees none of the keys seen so far begins a document.
    begins = (low[1:] >= high.cummax(0).values[:-1]).nonzero().flatten() + 1
    bounds = [0, *begins.tolist(), len(places)]
    queries, lows, highs = places.tolist(), low.tolist(), high.tolist()
    single = []
    for start, stop in itertools.pairwise(bounds):
        for cut in range(start, stop, BLOCK):
            end = min(cut + BLOCK, stop)
            single.append(_Range(queries[cut], queries[end - 1] + 1, min(lows[cut:end]), max(highs[cut:end])))
    joined: list[_Range] = []
    needed = 0
    for part in single:
        needed += part.area
        if joined and (joined[-1] | part).area <= needed + CALL:
            joined[-1] |= part
        else:
            joined.append(part)
            needed = part.area
    return joined


class _Blocked(torch.autograd.Function):
    """Calls the CPU's flash kernel per block. Gradients of keys add up in place: that of a slice would be a whole
    tensor of zeros for every block, and copies of the keys would be kept until the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: list[_Block], keep: Tensor | None
    ) -> Tensor:
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        # Laid out like the query, (rows, heads, width), so that joining the heads afterwards copies nothing.
        out = query.new_zeros(query.transpose(1, 2).shape).transpose(1, 2)
        sums = []
        for block in blocks:
            part = block.range
            made, total = kernel(
                query[:, :, part.first : part.last],
                key[:, :, part.low : part.high],
                value[:, :, part.low : part.high],
                attn_mask=block.bias.to(query.dtype),
            )
            out[:, :, part.first : part.last] = made
            sums.append(total)
        if keep is not None:
            out.mul_(keep)
        ctx.save_for_backward(query, key, value, out, *sums)
        ctx.blocks, ctx.keep = blocks, keep
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, out, *sums = ctx.saved_tensors
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        if ctx.keep is not None:
            grad = grad * ctx.keep.to(grad.dtype)
        by_query, by_key, by_value = (
            states.new_zeros(states.transpose(1, 2).shape).transpose(1, 2) for states in (query, key, value)
        )
        for block, total in zip(ctx.blocks, sums, strict=True):
            rows, seen = slice(block.range.first, block.range.last), slice(block.range.low, block.range.high)
            parts = kernel(
                grad[:, :, rows],
                query[:, :, rows],
                key[:, :, seen],
                value[:, :, seen],
                out[:, :, rows],
                total,
                0.0,
                False,
                attn_mask=block.bias.to(query.dtype),
            )
            by_query[:, :, rows] = parts[0]
            by_key[:, :, seen].add_(parts[1])  # `+=` on a part would also write it back over itself
            by_value[:, :, seen].add_(parts[2])
        return by_query, by_key, by_value, None, None


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


def _without_cudnn(query: Tensor) -> AbstractContextManager[None]:
    """cuDNN's kernel, which torch prefers in half precision, is built anew for every shape; batches have their own."""
    if query.device.type != "cuda" or query.dtype == torch.float32:
        return nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    kernels = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    return sdpa_kernel(kernels)


def share_heads(states: Tensor, heads: int) -> Tensor:
    """Repeats key or value heads (B, G, K, D) so that there is one for each of `heads` query heads."""
    return states if states.shape[1] == heads else states.repeat_interleave(heads // states.shape[1], dim=1)


def _join_rows(states: Tensor) -> Tensor:
    """(B, H, N, D) to (1, H, B * N, D). Free where the states were made as (B, N, H, D)."""
    _, heads, _, width = states.shape
    return states.transpose(1, 2).reshape(1, -1, heads, width).transpose(1, 2)


@cache
def _flex_kernel(device_type: str) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    kernel: Callable[..., Any] = flex_attention
    return kernel if device_type == "cpu" else torch.compile(kernel, dynamic=True)
