"""Who may attend to whom: the three masks of the model, stated once, independent of how attention is computed.

Each mask is a formula over (batch row, query index, key index). `dense()` evaluates it everywhere; flex_attention
compiles it; the xformers back end expresses it through its own bias classes, which tests compare with `dense()`.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class CausalMask:
    """Block-causal self-attention: a token sees itself and earlier tokens of its own document, at most `window`.

    `documents` (B, N) int64: 0 is padding, which sees nothing and is not seen.
    """

    documents: Tensor
    window: int | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(B, queries, keys)."""
        batch, length = self.documents.shape
        return batch, length, length

    @property
    def device(self) -> torch.device:
        return self.documents.device

    def allowed(self, b: Tensor, q: Tensor, k: Tensor) -> Tensor:
        """Bool, of the broadcast shape of the three index tensors."""
        document = self.documents[b, q]
        seen = (document == self.documents[b, k]) & (document > 0) & (k <= q)
        return seen if self.window is None else seen & (q - k < self.window)

    def nonempty(self) -> Tensor:
        """(B, N) bool: queries that see anything."""
        return self.documents > 0

    @cached_property
    def _dense(self) -> Tensor:
        return _evaluate(self)

    def dense(self) -> Tensor:
        """(B, N, N) bool."""
        return self._dense


@dataclass(frozen=True)
class PrefixMask:
    """The decoder's cross-attention: token i sees the patches j < visible[i] of its own document.

    `query_documents`, `visible` (B, T); `key_documents` (B, P); int64.
    """

    query_documents: Tensor
    visible: Tensor
    key_documents: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """(B, queries, keys)."""
        batch, length = self.query_documents.shape
        return batch, length, self.key_documents.shape[1]

    @property
    def device(self) -> torch.device:
        return self.query_documents.device

    def allowed(self, b: Tensor, q: Tensor, k: Tensor) -> Tensor:
        """Bool, of the broadcast shape of the three index tensors."""
        document = self.query_documents[b, q]
        return (document == self.key_documents[b, k]) & (document > 0) & (k < self.visible[b, q])

    def nonempty(self) -> Tensor:
        """(B, T) bool: queries that see anything. The first token of a document may see no patch yet."""
        if self.key_documents.shape[1] == 0:
            return torch.zeros_like(self.visible, dtype=torch.bool)
        # A document's patches lie together, so something is visible exactly when the latest visible patch is its own.
        latest = self.key_documents.gather(1, (self.visible - 1).clamp_min(0))
        return (self.visible > 0) & (latest == self.query_documents) & (self.query_documents > 0)

    @cached_property
    def _dense(self) -> Tensor:
        return _evaluate(self)

    def dense(self) -> Tensor:
        """(B, T, P) bool."""
        return self._dense


@dataclass(frozen=True)
class MemberMask:
    """The encoder's cross-attention: a patch query sees the tokens of its own patch, and no others.

    `patch_ids` (B, T) int64: the patch of each token; `documents` (B, T): 0 is padding; `patches`: P;
    `queries`: per patch (BLT's k), so there are P * queries query rows, those of a patch next to each other.
    """

    patch_ids: Tensor
    documents: Tensor
    patches: int
    queries: int = 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """(B, queries, keys)."""
        batch, length = self.patch_ids.shape
        return batch, self.patches * self.queries, length

    @property
    def device(self) -> torch.device:
        return self.patch_ids.device

    def allowed(self, b: Tensor, q: Tensor, k: Tensor) -> Tensor:
        """Bool, of the broadcast shape of the three index tensors."""
        return (self.patch_ids[b, k] == q // self.queries) & (self.documents[b, k] > 0)

    def nonempty(self) -> Tensor:
        """(B, P * queries) bool: queries that see anything. Padding patches have no tokens."""
        counts = torch.zeros(self.patch_ids.shape[0], self.patches, dtype=torch.int64, device=self.device)
        counts.scatter_add_(1, self.patch_ids, (self.documents > 0).long())
        return (counts > 0).repeat_interleave(self.queries, dim=1)

    @cached_property
    def _dense(self) -> Tensor:
        return _evaluate(self)

    def dense(self) -> Tensor:
        """(B, P * queries, T) bool."""
        return self._dense


Mask = CausalMask | PrefixMask | MemberMask


def _evaluate(mask: Mask) -> Tensor:
    batch, queries, keys = mask.shape
    device = mask.device
    return mask.allowed(
        torch.arange(batch, device=device)[:, None, None],
        torch.arange(queries, device=device)[None, :, None],
        torch.arange(keys, device=device)[None, None, :],
    )
