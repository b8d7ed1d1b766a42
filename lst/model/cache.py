"""Incremental inference: the same logits as the full forward pass, one token at a time.

What is kept per document: keys and values of the encoder's and decoder's last `window` tokens, keys and values of all
patches in the global transformer and in the decoder's cross-attention, and the encoder states of the patch that is
still open. The encoder and the decoder run once per token, the global transformer once per patch: when a patch fills
up, or when a token shows that it ended early. New patches are static, `patch_size` units each.

Cost per unit: the local modules once, a `patch_size`-th of a global step, and attention over what is kept.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lst.data.batch import PackedBatch, pack_examples
from lst.data.patching import Example
from lst.model.attention import Attend
from lst.model.config import TransformerConfig
from lst.model.kv import KeyValues, Rows
from lst.model.lst import LST, Activations, Prepared
from lst.model.step import Steps, turn_table

TABLE = 512
"""Positions whose rotations are worked out at first."""


class Incremental:
    """A batch of documents that grow token by token. The model must be in eval mode; nothing keeps gradients.

    `start` takes prompts of any lengths, `step` one token per document, `keep` drops finished documents. Logits are
    (B, V) float32, for the token after the last.
    """

    def __init__(self, model: LST, patch_size: int | None = None, *, only_speech: bool = False) -> None:
        self.model = model
        self.config = model.config
        self.patch_size = patch_size if patch_size is not None else self.config.patching.size
        self.first = model.config.text_size if only_speech else 0
        """The first id that has logits after a step; those before it have -inf."""
        self.device = next(model.parameters()).device
        self.never = torch.full((1, self.first), -torch.inf, device=self.device)
        """What they have."""
        self.caches: dict[str, KeyValues] = {}
        self.positions: list[int] = []
        """Tokens of each document so far."""
        self.open: list[list[Tensor]] = []
        """Encoder states (1, d) of each document's units in its open patch."""
        self.tables: dict[tuple[int, float], Tensor] = {}
        self.global_steps = 0
        """Positions the global transformer has computed since `start`, prompts included, over all documents."""
        self.steps = Steps.of(model, self.first)

    @torch.inference_mode()
    def start(self, prompts: Sequence[Example]) -> Tensor:
        """Reads the prompts, one document each, and returns the logits after their last tokens."""
        batch = pack_examples([[prompt] for prompt in prompts], self.config.vocabulary).to(self.device)
        prepared = self.model.prepare(batch)
        recorders = {"global": _Recorder(prepared.attend)}
        if prepared.plans is not None:
            for name in ("encoder", "decoder", "prefix"):
                recorders[name] = _Recorder(getattr(prepared.plans, name))
            plans = replace(
                prepared.plans,
                encoder=recorders["encoder"],
                decoder=recorders["decoder"],
                prefix=recorders["prefix"],
            )
            prepared = Prepared(recorders["global"], prepared.local, plans)
        else:
            prepared = Prepared(recorders["global"], None, None)
        made = self.model.run(batch, prepared)
        self.global_steps = batch.global_units
        self._fill(batch, prompts, prepared, made, recorders)
        return self._last_logits(batch, prepared, made)

    @torch.inference_mode()
    def step(self, tokens: NDArray[np.int32] | Sequence[int]) -> Tensor:
        """Appends one token to each document, (B,), and returns the next logits."""
        ids: list[int] = np.asarray(tokens).tolist()
        threads = torch.get_num_threads()
        if len(ids) > 1 or threads == 1 or not self.steps.by_one_thread:
            return self._append(ids)
        torch.set_num_threads(1)
        try:
            return self._append(ids)
        finally:
            torch.set_num_threads(threads)

    def _append(self, ids: list[int]) -> Tensor:
        everyone = list(range(len(ids)))
        if self.model.encoder is None:
            logits = self._global(self._embed(ids), everyone, by_head=True)
            self._advance()
            return self._all_ids(logits)

        unit = [token >= self.model.unit_offset for token in ids]
        size = self.patch_size
        ended = [row for row in everyone if self.open[row] and not (unit[row] and len(self.open[row]) < size)]
        if ended:  # this token begins another patch, so the open one is complete, however short
            self._close(ended)
        local = everyone if self.model.text_head is None else [row for row in everyone if unit[row]]
        hidden = None
        if local:
            hidden = self._encode([ids[row] for row in local], local)
            for place, row in enumerate(local):
                self.open[row].append(hidden[place : place + 1])
        straight = [] if self.model.text_head is None else [row for row in everyone if not unit[row]]
        text_logits = None
        if straight:
            assert self.model.text_embedding is not None
            text_ids = torch.tensor([ids[row] for row in straight], device=self.device)
            text_logits = self._global(self.model.text_embedding(text_ids), straight, by_head=True)
        full = [row for row in local if len(self.open[row]) >= size or not unit[row]]
        if full:
            self._close(full)
        unit_logits = None if hidden is None else self._decode(hidden, local)
        self._advance()
        if text_logits is None or unit_logits is None:
            return self._all_ids(unit_logits if text_logits is None else text_logits)
        logits = torch.empty(len(ids), unit_logits.shape[1], device=self.device)
        logits[straight], logits[local] = text_logits, unit_logits
        return self._all_ids(logits)

    def _advance(self) -> None:
        self.positions = [position + 1 for position in self.positions]

    def _all_ids(self, logits: Tensor | None) -> Tensor:
        """(B, V) from the logits of the ids that have any."""
        assert logits is not None
        return torch.cat([self.never.expand(len(logits), -1), logits], dim=1) if self.first else logits

    def keep(self, rows: Sequence[int]) -> None:
        """Goes on with these documents only, in this order."""
        for cache in self.caches.values():
            cache.keep([*rows])
        self.positions = [self.positions[row] for row in rows]
        if self.model.encoder is not None:
            self.open = [[*self.open[row]] for row in rows]

    # One token

    def _embed(self, ids: list[int]) -> Tensor:
        """(R, d): the first module's embeddings; of a single token without index tensors."""
        if len(ids) > 1:
            return self.model.embed(torch.tensor(ids, device=self.device))
        row = ids[0] - (0 if self.model.text_embedding is None else self.model.unit_offset)
        return self.model.scaled(self.model.embedding.weight[row : row + 1])

    def _encode(self, ids: list[int], rows: Rows) -> Tensor:
        """Encoder states (R, d) of the new tokens of `rows`."""
        encoder, encode = self.config.encoder, self.steps.encode
        assert encoder is not None
        assert encode is not None
        turn = self._turn([self.positions[row] for row in rows], encoder)
        cache = self.caches["encoder"]
        places = cache.adding(rows)
        return encode(self._embed(ids), turn, cache.keys, cache.values, places)

    def _close(self, rows: Rows) -> None:
        """Makes patches of the open tokens of `rows` and sends them through the global transformer."""
        patches = [self.open[row] for row in rows]
        sizes = [len(patch) for patch in patches]
        most, inside = max(sizes), None
        if min(sizes) < most:
            inside = torch.tensor([[place < size for place in range(most)] for size in sizes], device=self.device)
            patches = [patch + [patch[-1]] * (most - len(patch)) for patch in patches]
        states = torch.cat([state for patch in patches for state in patch]).view(len(rows), most, -1)
        assert self.steps.patch is not None
        self._global(self.steps.patch(states, inside), rows)
        for row in rows:
            self.open[row] = []

    def _global(self, x: Tensor, rows: Rows, *, by_head: bool = False) -> Tensor:
        """The global transformer on one new patch (R, d_global) of each of `rows`; keeps what the decoder needs.

        Returns its outputs or, `by_head`, logits.
        """
        cache, decoder = self.caches["global"], self.config.decoder
        positions = [cache.counts[row] for row in rows]
        turn = self._turn(positions, self.config.global_transformer)
        self.global_steps += len(rows)
        places = cache.adding(rows)
        known: tuple[Any, ...] = (None, None, None, None)
        if decoder is not None:
            prefix = self.caches["prefix"]
            prefix_places = prefix.adding(rows)  # first: it may make room
            known = (self._cross_turn(positions, decoder), prefix.keys, prefix.values, prefix_places)
        return self.steps.of_global(x, by_head, turn, cache.keys, cache.values, places, *known)

    def _decode(self, hidden: Tensor, rows: Rows) -> Tensor:
        """Logits (R, V) from the encoder's states (R, d)."""
        prefix, cache, decoder = self.caches["prefix"], self.caches["decoder"], self.config.decoder
        assert decoder is not None
        assert self.steps.decode is not None
        turn = self._turn([self.positions[row] for row in rows], decoder)
        query_turn = self._cross_turn([max(prefix.counts[row] - 1, 0) for row in rows], decoder)
        seen, places = prefix.reading(rows), cache.adding(rows)
        return self.steps.decode(
            hidden, turn, cache.keys, cache.values, places, query_turn, prefix.keys, prefix.values, seen
        )

    def _cross_turn(self, patches: list[int], config: TransformerConfig) -> Tensor:
        """Rotations of the decoder's cross-attention at `patches`."""
        return self._turn(patches if self.config.cross_rope else [0] * len(patches), config)

    def _turn(self, positions: list[int], config: TransformerConfig) -> Tensor:
        """Rotations at `positions` (R), looked up in a table that grows as documents do."""
        key, most = (config.head_dim, config.rope_theta), max(positions)
        table = self.tables.get(key)
        if table is None or len(table) <= most:
            table = self.tables[key] = turn_table(2 * max(most, TABLE), *key, self.device)
        if min(positions) == most:
            return table[most : most + 1]
        return table[torch.tensor(positions, device=self.device)]

    # Prompts

    def _fill(
        self,
        batch: PackedBatch,
        prompts: Sequence[Example],
        prepared: Prepared,
        made: Activations,
        recorders: dict[str, "_Recorder"],
    ) -> None:
        """Takes over from the prompts' forward pass."""
        self.positions = [len(prompt.tokens) for prompt in prompts]
        patches = [len(prompt.patch_lengths) for prompt in prompts]
        if prepared.local is None or made.hidden is None:
            self.caches = {"global": KeyValues.filled(recorders["global"].states, patches, None)}
            return
        sizes = [0 if prompt.closed[-1] else int(prompt.patch_lengths[-1]) for prompt in prompts]
        # The open patch went through the global transformer unseen by any token; it is made again when it is complete.
        complete = [count - (size > 0) for count, size in zip(patches, sizes, strict=True)]
        self.global_steps -= sum(patches) - sum(complete)
        local: list[int] = (prepared.local.documents > 0).sum(1).tolist()
        encoder, decoder = self.config.encoder, self.config.decoder
        assert encoder is not None
        assert decoder is not None
        self.caches = {
            "encoder": KeyValues.filled(recorders["encoder"].states, local, encoder.window),
            "global": KeyValues.filled(recorders["global"].states, complete, None),
            "prefix": KeyValues.filled(recorders["prefix"].states, complete, None),
            "decoder": KeyValues.filled(recorders["decoder"].states, local, decoder.window),
        }
        self.open = [
            [states[place : place + 1] for place in range(count - size, count)]
            for states, count, size in zip(made.hidden, local, sizes, strict=True)
        ]

    def _last_logits(self, batch: PackedBatch, prepared: Prepared, made: Activations) -> Tensor:
        rows = torch.arange(len(batch.tokens), device=self.device)
        last_patch = (batch.patch_documents > 0).sum(1) - 1
        if made.states is None or prepared.local is None:
            return self.model.head(made.outputs[rows, last_patch]).float()  # type: ignore[no-any-return]
        logits = torch.empty(len(rows), self.config.vocabulary.size, device=self.device)
        by_patch = batch.patch_is_text[rows, last_patch]
        if self.model.text_head is None:
            by_patch = torch.zeros_like(by_patch)
        else:
            logits[by_patch] = self.model.text_head(made.outputs[rows, last_patch][by_patch]).float()
        last = ((prepared.local.documents > 0).sum(1) - 1)[~by_patch]
        logits[~by_patch] = self.model.head(made.states[rows[~by_patch], last]).float()
        return logits


class _Recorder:
    """Passes attention on and keeps each layer's keys and values."""

    def __init__(self, attend: Attend) -> None:
        self.attend = attend
        self.states: list[tuple[Tensor, Tensor]] = []

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self.states.append((key, value))
        return self.attend(query, key, value)
