"""Pooling and attention over patches as segment operations: time and memory linear in the number of tokens.

A patch query sees only the tokens of its own patch (about 4 of thousands), so a dense mask would waste nearly all of
its work. Here each token's score goes to its patch by index, and the softmax runs per segment. No loop over patches,
any patch length, and the result is the dense one to rounding.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lst.model.masks import MemberMask

Pooling = Literal["max", "mean", "last"]


@dataclass(frozen=True)
class Segments:
    """Which patch each token belongs to, as flat indices: made once per batch.

    `index` (B*T,) int64 in 0..B*P; the last slot, B*P, takes the padding tokens. `counts` (B*P,) tokens per patch.
    """

    index: Tensor
    counts: Tensor
    batch: int
    patches: int

    @staticmethod
    def of(mask: MemberMask) -> "Segments":
        """From the membership mask of a batch."""
        batch, _ = mask.patch_ids.shape
        slots = batch * mask.patches
        row = torch.arange(batch, device=mask.device)[:, None] * mask.patches
        index = torch.where(mask.documents > 0, row + mask.patch_ids, slots).reshape(-1)
        counts = torch.zeros(slots + 1, dtype=torch.int64, device=mask.device)
        counts.index_add_(0, index, torch.ones_like(index))
        return Segments(index=index, counts=counts[:-1], batch=batch, patches=mask.patches)

    @property
    def slots(self) -> int:
        return self.batch * self.patches + 1

    def sum(self, values: Tensor) -> Tensor:
        """(B*T, ...) summed per patch: (B*P, ...). A patch without tokens gets 0."""
        out = values.new_zeros(self.slots, *values.shape[1:])
        return out.index_add(0, self.index, values)[:-1]

    def max(self, values: Tensor) -> Tensor:
        """(B*T, n), the maximum per patch: (B*P, n). A patch without tokens gets 0."""
        index = self.index[:, None].expand_as(values)
        out = values.new_zeros(self.slots, values.shape[1])
        return out.scatter_reduce(0, index, values, "amax", include_self=False)[:-1]

    def spread(self, values: Tensor) -> Tensor:
        """(B*P, ...) of the patches to their tokens: (B*T, ...). Padding tokens get 0."""
        padded = torch.cat([values, values.new_zeros(1, *values.shape[1:])])
        return padded.index_select(0, self.index)


def pool(hidden: Tensor, segments: Segments, how: Pooling) -> Tensor:
    """Token states `hidden` (B, T, d) pooled per patch: (B, P, d); 0 for a patch without tokens."""
    dim = hidden.shape[-1]
    flat = hidden.reshape(-1, dim)
    if how == "max":
        pooled = segments.max(flat)
    elif how == "mean":
        pooled = segments.sum(flat) / segments.counts.clamp_min(1)[:, None].to(flat.dtype)
    else:
        place = torch.arange(flat.shape[0], device=flat.device)
        last = torch.full((segments.slots,), len(flat), dtype=place.dtype, device=flat.device)
        last = last.scatter_reduce(0, segments.index, place, "amax", include_self=False)[:-1]
        pooled = torch.cat([flat, flat.new_zeros(1, dim)]).index_select(0, last)
    return pooled.view(segments.batch, segments.patches, dim)


def segment_attention(query: Tensor, key: Tensor, value: Tensor, segments: Segments) -> Tensor:
    """Softmax attention of each patch's queries over the patch's own tokens.

    `query` (B, H, P*k, D); `key`, `value` (B, H, T, D), the same number of heads. Returns (B, H, P*k, D); 0 for a patch
    without tokens. Scores and softmax are float32.
    """
    batch, heads, queries, width = query.shape
    each = queries // max(1, segments.patches)
    # (B*P, k, H, D) and (B*T, 1, H, D): one row per patch, one per token.
    per_patch = query.view(batch, heads, segments.patches, each, width).permute(0, 2, 3, 1, 4)
    per_patch = per_patch.reshape(-1, each, heads, width)
    keys = key.transpose(1, 2).reshape(-1, 1, heads, width)
    values = value.transpose(1, 2).reshape(-1, 1, heads, width)

    scores = (segments.spread(per_patch) * keys).sum(-1).float() * width**-0.5  # (B*T, k, H)
    flat = scores.reshape(-1, each * heads)
    with torch.no_grad():  # the softmax does not depend on the shift, so no gradient flows through it
        peak = segments.spread(segments.max(flat))
    weights = torch.exp(flat - peak)
    total = segments.sum(weights).clamp_min(torch.finfo(weights.dtype).tiny)
    weighted = weights.view(-1, each, heads, 1).to(value.dtype) * values
    out = segments.sum(weighted) / total.view(-1, each, heads, 1).to(value.dtype)
    out = out.view(batch, segments.patches, each, heads, width).permute(0, 3, 1, 2, 4)
    return out.reshape(batch, heads, queries, width)
