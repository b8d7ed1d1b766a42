"""The xformers back end: memory-efficient CUDA kernels driven by block-diagonal biases.

Self-attention and the encoder's cross-attention are block-diagonal over the joined rows (documents, patches). The
decoder's cross-attention is not: its blocks of keys overlap, so it gets a dense additive bias. Biases build, and
materialise, on a CPU too; only the kernels need CUDA.
"""

from typing import Any

import torch
from torch import Tensor

from lst.errors import LstError
from lst.model.attention import share_heads
from lst.model.masks import CausalMask, Mask, MemberMask

ALIGNMENT = 8
"""The kernels read a dense bias in runs of this many keys."""


def make_bias(mask: Mask, dtype: torch.dtype) -> Any:
    """What xformers calls an attention bias, over all rows joined; for `PrefixMask` a tensor (B, 1, Q, K).

    Hidden queries get some value there, too: xformers knows no query without keys.
    """
    try:
        from xformers.ops.fmha import attn_bias
    except ImportError as error:
        raise LstError("xformers is not installed here.", hint="Leave the attention back end at 'auto'.") from error

    if isinstance(mask, CausalMask):
        lengths = _runs(mask.documents)
        bias = attn_bias.BlockDiagonalCausalMask.from_seqlens(lengths, device=mask.device)
        return bias if mask.window is None else bias.make_local_attention(mask.window)
    if isinstance(mask, MemberMask):
        queries, keys = _member_blocks(mask)
        return attn_bias.BlockDiagonalMask.from_seqlens(queries, keys, device=mask.device)
    visible = mask.dense() | ~mask.nonempty()[:, :, None]
    batch, rows, columns = visible.shape
    padded = torch.zeros(batch, 1, rows, -(-columns // ALIGNMENT) * ALIGNMENT, dtype=dtype, device=mask.device)
    return padded[:, :, :, :columns].masked_fill_(~visible[:, None], -torch.inf)


class XformersAttention:
    """memory_efficient_attention under `mask`. Raises `LstError` without a CUDA device."""

    def __init__(self, mask: Mask) -> None:
        if mask.device.type != "cuda":
            raise LstError(
                f"The xformers attention back end needs a CUDA device, not {mask.device.type}.",
                hint="Leave the attention back end at 'auto'.",
            )
        self.mask = mask
        self.biases: dict[torch.dtype, Any] = {}

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        from xformers.ops import memory_efficient_attention

        batch, heads, queries, width = query.shape
        bias = self.biases.get(query.dtype)
        if bias is None:
            bias = self.biases[query.dtype] = make_bias(self.mask, query.dtype)
        states = [part.transpose(1, 2) for part in (query, share_heads(key, heads), share_heads(value, heads))]
        if isinstance(bias, Tensor):
            out = memory_efficient_attention(*states, attn_bias=bias.expand(batch, heads, queries, -1))
        else:
            joined = [part.reshape(1, -1, heads, width) for part in states]
            out = memory_efficient_attention(*joined, attn_bias=bias)
        out = out.reshape(batch, queries, heads, width).transpose(1, 2)
        return out.masked_fill(~self.mask.nonempty()[:, None, :, None], 0)  # type: ignore[no-any-return]


def _runs(documents: Tensor) -> list[int]:
    """Lengths of the runs of equal entries, row after row (a run ends with its row)."""
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    starts = begins.flatten().nonzero().flatten()
    ends = torch.cat([starts[1:], starts.new_tensor([documents.numel()])])
    return [int(length) for length in (ends - starts).cpu()]


def _member_blocks(mask: MemberMask) -> tuple[list[int], list[int]]:
    """Queries and keys of each block: one per patch, and one without queries for a row's padding tokens."""
    counts = mask.counts.cpu()
    padding = mask.keys - counts.sum(dim=1, keepdim=True)
    keys = torch.cat([counts, padding], dim=1)
    queries = torch.full_like(keys, mask.queries)
    queries[:, -1] = 0
    return queries.flatten().tolist(), keys.flatten().tolist()
