"""Who may attend to whom: the three masks of the model, stated once, independent of how attention is computed.

Documents lie together in a row, and so do the tokens of a patch. Therefore each query of every mask sees one run of
keys, `first <= key < last`, and a mask is two integers per query. The back ends of `lst.model.attention` all start from
these: a dense boolean mask, flex_attention's formula, xformers' biases, or the ranges themselves.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


class Mask:
    """A query sees keys first..last-1 of its batch row; nothing if they are equal."""

    first: Tensor
    """(B, Q) int64."""
    last: Tensor
    """(B, Q) int64."""
    keys: int
    """Keys per batch row, K."""

    @property
    def device(self) -> torch.device:
        return self.first.device

    @property
    def shape(self) -> tuple[int, int, int]:
        """(B, Q, K)."""
        batch, queries = self.first.shape
        return batch, queries, self.keys

    def allowed(self, b: Tensor, q: Tensor, k: Tensor) -> Tensor:
        """Bool, of the broadcast shape of three index tensors (row, query, key)."""
        return (k >= self.first[b, q]) & (k < self.last[b, q])

    def nonempty(self) -> Tensor:
        """(B, Q) bool: queries that see anything. Padding does not; nor does a document's first token any patch."""
        return self.last > self.first

    def dense(self) -> Tensor:
        """(B, Q, K) bool."""
        keys = torch.arange(self.keys, device=self.device)
        return (keys >= self.first[:, :, None]) & (keys < self.last[:, :, None])


@dataclass(frozen=True)
class CausalMask(Mask):
    """Block-causal self-attention: a token sees itself and earlier tokens of its document, at most `window` in all.

    `documents` (B, N) int64, each document's tokens together; 0 is padding, which sees nothing and is not seen.
    """

    documents: Tensor
    window: int | None = None

    @property
    def keys(self) -> int:  # type: ignore[override]
        return self.documents.shape[1]

    @cached_property
    def first(self) -> Tensor:  # type: ignore[override]
        start = _run_starts(self.documents)
        if self.window is None:
            return start
        place = torch.arange(self.keys, device=self.documents.device)
        return torch.maximum(start, place - (self.window - 1))

    @cached_property
    def last(self) -> Tensor:  # type: ignore[override]
        place = torch.arange(1, self.keys + 1, device=self.documents.device)
        return torch.where(self.documents > 0, place, self.first)


@dataclass(frozen=True)
class PrefixMask(Mask):
    """The decoder's cross-attention: token i sees the patches j < visible[i] of its own document.

    `query_documents`, `visible` (B, T); `key_documents` (B, P); int64, documents as in `CausalMask`.
    """

    query_documents: Tensor
    visible: Tensor
    key_documents: Tensor

    @property
    def keys(self) -> int:  # type: ignore[override]
        return self.key_documents.shape[1]

    @cached_property
    def first(self) -> Tensor:  # type: ignore[override]
        if self.keys == 0:
            return self.last
        latest = (self.visible - 1).clamp_min(0)
        # The latest patch before `visible` is of this document, or nothing of this document is visible yet.
        own = (self.visible > 0) & (self.key_documents.gather(1, latest) == self.query_documents)
        start = _run_starts(self.key_documents).gather(1, latest)
        return torch.where(own & (self.query_documents > 0), start, self.last)

    @property
    def last(self) -> Tensor:  # type: ignore[override]
        return self.visible


@dataclass(frozen=True)
class MemberMask(Mask):
    """The encoder's cross-attention: a patch query sees the tokens of its own patch, and no others.

    `patch_ids` (B, T) int64: the patch of each token, each patch's tokens together; `documents` (B, T): 0 is padding;
    `patches`: P; `queries`: per patch (BLT's k), so there are P * queries queries, those of a patch next to each other.
    """

    patch_ids: Tensor
    documents: Tensor
    patches: int
    queries: int = 1

    @property
    def keys(self) -> int:  # type: ignore[override]
        return self.patch_ids.shape[1]

    @cached_property
    def counts(self) -> Tensor:
        """(B, P) tokens in each patch."""
        counts = torch.zeros(len(self.patch_ids), self.patches, dtype=torch.int64, device=self.patch_ids.device)
        return counts.scatter_add(1, self.patch_ids, (self.documents > 0).long())

    @cached_property
    def first(self) -> Tensor:  # type: ignore[override]
        place = torch.arange(self.keys, device=self.patch_ids.device).expand_as(self.patch_ids)
        place = torch.where(self.documents > 0, place, self.keys)
        start = torch.full_like(self.counts, self.keys).scatter_reduce(1, self.patch_ids, place, "amin")
        return start.repeat_interleave(self.queries, dim=1)

    @cached_property
    def last(self) -> Tensor:  # type: ignore[override]
        return self.first + self.counts.repeat_interleave(self.queries, dim=1)


def _run_starts(documents: Tensor) -> Tensor:
    """(B, N): where in the row the run of equal entries that each place belongs to begins."""
    place = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return torch.where(begins, place, 0).cummax(dim=1).values if documents.shape[1] else place
