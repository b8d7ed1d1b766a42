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
from lst.model.attention import Attend, Backend, plan
from lst.model.blocks import Transformer
from lst.model.config import LSTConfig
from lst.model.linear import Linear
from lst.model.local import LocalPlans, LocalTokens, PatchDecoder, PatchEncoder
from lst.model.loss import LossOutput, head_loss, summarise
from lst.model.masks import CausalMask


@dataclass(frozen=True)
class _Predictions:
    """States that predict, of one width: `states` (B, S, d), their head, and where they stand in the batch.

    `places` (B, S) or None (token by token); `live` (B, S) bool: not padding, and predicted by this head.
    """

    states: Tensor
    head: Linear
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
        self.text_head: Linear | None = None
        if config.encoder is None or config.decoder is None:
            self.embedding = nn.Embedding(vocabulary.size, wide.dim)
            self.head = Linear(wide.dim, vocabulary.size)
        else:
            rows = vocabulary.size if config.text_local else vocabulary.num_units
            self.embedding = nn.Embedding(rows, config.encoder.dim)
            self.encoder = PatchEncoder(config.encoder, wide.dim, config.queries_per_patch, config.pooling, eps)
            self.decoder = PatchDecoder(config.decoder, config.encoder.dim, wide.dim, eps)
            self.head = Linear(config.decoder.dim, vocabulary.size)
            if not config.text_local:
                self.text_embedding = nn.Embedding(vocabulary.unit_offset, wide.dim)
                self.text_head = Linear(wide.dim, vocabulary.size)
        self.global_transformer = Transformer(wide, eps)
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
        prepared = self.prepare(batch)
        return self.loss_of(batch, prepared, self.run(batch, prepared))

    def loss_of(self, batch: PackedBatch, prepared: "Prepared", made: "Activations") -> LossOutput:
        """`loss`, from what `prepare` and `run` gave for `batch`."""
        sums, losses, targets, crossed = [], [], [], []
        for part in self._predictions(batch, prepared, made):
            wanted = _at(batch.targets, part.places)
            chosen = part.live & (wanted != IGNORED)
            total, each = head_loss(part.states[chosen], part.head, wanted[chosen])
            sums.append(total)
            losses.append(each)
            targets.append(wanted[chosen])
            crossed.append(_at(batch.crossed, part.places)[chosen])
        return summarise(
            torch.stack(sums).sum(),
            torch.cat(losses),
            torch.cat(targets),
            torch.cat(crossed),
            self.config.text_size,
            self.unit_offset,
        )

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

    def patch_embeddings(self, batch: PackedBatch) -> Tensor:
        """(B, P, d_global): what the global transformer reads of each patch. Raises ValueError for a base model."""
        prepared = self.prepare(batch)
        local, plans = prepared.local, prepared.plans
        if self.encoder is None or local is None or plans is None:
            raise ValueError("a model without a patch encoder has no patch embeddings")
        hidden = self.encoder.tokens(self.embed(local.tokens), plans.encoder_turn, plans.encoder)
        return self._patches(batch, hidden, plans)

    def prepare(self, batch: PackedBatch) -> "Prepared":
        """What all layers share in a forward pass over `batch`: planned attentions, rotations, local tokens."""
        attend = plan(CausalMask(batch.patch_documents), self.backend)
        if self.encoder is None:
            return Prepared(attend, None, None)
        local = LocalTokens.all_of(batch) if self.text_head is None else LocalTokens.units_of(batch, self.unit_offset)
        return Prepared(attend, local, LocalPlans.of(self.config, batch, local, self.backend))

    def run(self, batch: PackedBatch, prepared: "Prepared") -> "Activations":
        """The three modules, one after the other."""
        local, plans = prepared.local, prepared.plans
        if self.encoder is None or self.decoder is None or local is None or plans is None:
            # Patches are single tokens in the same order, so a row's patches are its tokens.
            outputs = self.global_transformer(self.embed(batch.tokens), batch.positions, prepared.attend)
            return Activations(None, outputs, None)
        hidden = self.encoder.tokens(self.embed(local.tokens), plans.encoder_turn, plans.encoder)
        patches = self._patches(batch, hidden, plans)
        outputs = self.global_transformer(patches, batch.patch_positions, prepared.attend)
        return Activations(hidden, outputs, self.decoder(hidden, outputs, plans))

    def _patches(self, batch: PackedBatch, hidden: Tensor, plans: LocalPlans) -> Tensor:
        """Patch embeddings (B, P, d_global) from the encoder's token states (B, S, d)."""
        assert self.encoder is not None
        patches = self.encoder.patches(hidden, plans.segments, plans.members)
        if self.text_embedding is None:
            return patches
        first = batch.tokens.gather(1, batch.patch_first).clamp_max(self.unit_offset - 1)
        straight = self.text_embedding(first).to(patches.dtype)
        return torch.where(batch.patch_is_text[:, :, None], straight, patches)

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings of ids (B, S) for the first module; units only, if text passes the local modules by."""
        return self.scaled(self.embedding(tokens if self.text_embedding is None else tokens - self.unit_offset))

    def scaled(self, embeddings: Tensor) -> Tensor:
        """Rows of the embedding table (..., d) as the first module takes them."""
        # A tied table starts small for the head's sake; the input is scaled back up to a usual size.
        return embeddings * embeddings.shape[-1] ** 0.5 if self.config.tied_heads else embeddings

    def _predict(self, batch: PackedBatch) -> list[_Predictions]:
        prepared = self.prepare(batch)
        return self._predictions(batch, prepared, self.run(batch, prepared))

    def _predictions(self, batch: PackedBatch, prepared: "Prepared", made: "Activations") -> list[_Predictions]:
        """Every state that predicts a token, by the head it goes through."""
        if made.states is None or prepared.local is None:
            return [_Predictions(made.outputs, self.head, None, batch.documents > 0)]
        parts = [_Predictions(made.states, self.head, prepared.local.places, prepared.local.documents > 0)]
        if self.text_head is not None:
            # A text token is a patch of its own, complete as soon as it is there: its patch predicts what follows it.
            parts.append(_Predictions(made.outputs, self.text_head, batch.patch_first, batch.patch_is_text))
        return parts


@dataclass(frozen=True)
class Prepared:
    """Made once per batch: the global attention, and what the local modules need (None in a base model)."""

    attend: Attend
    local: LocalTokens | None
    plans: LocalPlans | None


@dataclass(frozen=True)
class Activations:
    """`hidden` (B, S, d): the encoder's token states; `outputs` (B, P, d_global): the global transformer's; `states`
    (B, S, d): the decoder's, normed. The first and last are None in a base model."""

    hidden: Tensor | None
    outputs: Tensor
    states: Tensor | None


def _at(values: Tensor, places: Tensor | None) -> Tensor:
    return values if places is None else values.gather(1, places)
