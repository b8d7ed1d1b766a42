"""The Latent Speech-Text Transformer, and from the same blocks the base SpeechLLM.

    tokens -> PatchEncoder -> patches -> Transformer (global) -> patches -> PatchDecoder -> next-token logits

Causality. The token at position i predicts token i+1. Self-attention is causal everywhere; patch j is made of its own
tokens and of patches before it; and token i sees patch j only if `j < visible[i]`, which the data stage sets so that a
patch is known to be complete from tokens up to i (see `lst.data.patching`). So no logit depends on a later token, nor
on where later patches begin.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lst.data.batch import IGNORED, PackedBatch
from lst.model.attention import Backend, plan
from lst.model.blocks import Transformer
from lst.model.config import LSTConfig
from lst.model.local import LocalPlans, LocalTokens, PatchDecoder, PatchEncoder
from lst.model.loss import LossOutput, head_loss, summarise
from lst.model.masks import CausalMask


@dataclass(frozen=True)
class _Predictions:
    """States that predict, of one width: `states` (B, S, d), their head, and where they stand in the batch.

    `places` (B, S) or None (token by token); `live` (B, S) bool: not padding, and predicted by this head.
    """

    states: Tensor
    head: nn.Linear
    places: Tensor | None
    live: Tensor


class LST(nn.Module):
    """`forward(batch)` gives logits, `loss(batch)` the training loss, `target_losses(batch)` one number per token.

    Weights are uninitialised by the rule of this model until `lst.model.init.initialise` has run: use `build_model`.
    `backend` picks the attention implementation; it changes speed, not results.
    """

    def __init__(self, config: LSTConfig, backend: Backend = "auto") -> None:
        super().__init__()
        self.config = config
        self.backend: Backend = backend
        vocabulary = config.vocabulary
        self.unit_offset = vocabulary.unit_offset
        wide, eps = config.global_transformer, config.norm_eps
        self.encoder: PatchEncoder | None = None
        self.decoder: PatchDecoder | None = None
        self.text_embedding: nn.Embedding | None = None
        self.text_head: nn.Linear | None = None
        if config.encoder is None or config.decoder is None:
            self.embedding = nn.Embedding(vocabulary.size, wide.dim)
            self.head = nn.Linear(wide.dim, vocabulary.size, bias=False)
        else:
            rows = vocabulary.size if config.text_local else vocabulary.num_units
            self.embedding = nn.Embedding(rows, config.encoder.dim)
            self.encoder = PatchEncoder(config.encoder, wide.dim, config.queries_per_patch, config.pooling, eps)
            self.decoder = PatchDecoder(config.decoder, config.encoder.dim, wide.dim, eps)
            self.head = nn.Linear(config.decoder.dim, vocabulary.size, bias=False)
            if not config.text_local:
                self.text_embedding = nn.Embedding(vocabulary.unit_offset, wide.dim)
                self.text_head = nn.Linear(wide.dim, vocabulary.size, bias=False)
        self.global_transformer = Transformer(wide, eps)
        # A tied table starts small for the head's sake; the input is scaled back up to a usual size.
        self.embedding_scale = self.embedding.embedding_dim**0.5 if config.tied_heads else 1.0
        self.tie()

    def tie(self) -> None:
        """Makes the head share the embedding's weights, if the configuration says so (again after loading)."""
        if self.config.tied_heads:
            self.head.weight = self.embedding.weight

    def forward(self, batch: PackedBatch) -> Tensor:
        """Logits (B, T, V) float32 for the token after each token; 0 on padding.

        Large: T x V numbers per row. Training and scoring use `loss` and `target_losses`.
        """
        size = self.config.vocabulary.size
        out = torch.zeros(*batch.tokens.shape, size, device=batch.device)
        rows = torch.arange(len(batch.tokens), device=batch.device)[:, None].expand_as(batch.tokens)
        for part in self._predict(batch):
            logits = part.head(part.states[part.live]).float()
            if part.places is None:
                out[part.live] = logits
            else:
                out[rows[:, : part.places.shape[1]][part.live], part.places[part.live]] = logits
        return out

    def loss(self, batch: PackedBatch) -> LossOutput:
        """Summed next-token cross-entropy over the batch's targets, with sums per modality."""
        sums, losses, targets = [], [], []
        for part in self._predict(batch):
            wanted = _at(batch.targets, part.places)
            chosen = part.live & (wanted != IGNORED)
            total, each = head_loss(part.states[chosen], part.head, wanted[chosen])
            sums.append(total)
            losses.append(each)
            targets.append(wanted[chosen])
        total = torch.stack(sums).sum()
        return summarise(total, torch.cat(losses), torch.cat(targets), self.config.text_size, self.unit_offset)

    def target_losses(self, batch: PackedBatch) -> Tensor:
        """(B, T) float32: minus the log probability in nats of each token's target; 0 where there is no target.

        Detached: for scoring. An entry stands at the token that predicts, one before the token it is about.
        """
        out = torch.zeros(batch.tokens.shape, device=batch.device)
        rows = torch.arange(len(batch.tokens), device=batch.device)[:, None].expand_as(batch.tokens)
        for part in self._predict(batch):
            wanted = _at(batch.targets, part.places)
            chosen = part.live & (wanted != IGNORED)
            _, values = head_loss(part.states[chosen], part.head, wanted[chosen])
            if part.places is None:
                out[chosen] = values
            else:
                out[rows[:, : wanted.shape[1]][chosen], part.places[chosen]] = values
        return out

    def _predict(self, batch: PackedBatch) -> list[_Predictions]:
        """Every state that predicts a token, by the head it goes through."""
        attend = plan(CausalMask(batch.patch_documents), self.backend)
        if self.encoder is None or self.decoder is None:
            # Patches are single tokens in the same order, so a row's patches are its tokens.
            embedded = self.embedding(batch.tokens) * self.embedding_scale
            states = self.global_transformer(embedded, batch.positions, attend)
            return [_Predictions(states, self.head, None, batch.documents > 0)]

        text_local = self.text_embedding is None
        local = LocalTokens.all_of(batch) if text_local else LocalTokens.units_of(batch, self.unit_offset)
        plans = LocalPlans.of(self.config, batch, local, self.backend)
        ids = local.tokens if text_local else local.tokens - self.unit_offset
        embedded = self.embedding(ids) * self.embedding_scale
        hidden = self.encoder.tokens(embedded, plans.encoder_turn, plans.encoder)
        patches = self.encoder.patches(hidden, plans.segments, plans.members)
        if self.text_embedding is not None:
            first = batch.tokens.gather(1, batch.patch_first).clamp_max(self.unit_offset - 1)
            straight = self.text_embedding(first).to(patches.dtype)
            patches = torch.where(batch.patch_is_text[:, :, None], straight, patches)
        patches = self.global_transformer(patches, batch.patch_positions, attend)
        states = self.decoder(hidden, patches, plans)
        parts = [_Predictions(states, self.head, local.places, local.documents > 0)]
        if self.text_head is not None:
            # A text token is a patch of its own, complete as soon as it is there: its patch predicts what follows it.
            parts.append(_Predictions(patches, self.text_head, batch.patch_first, batch.patch_is_text))
        return parts


def _at(values: Tensor, places: Tensor | None) -> Tensor:
    return values if places is None else values.gather(1, places)
