"""The two small modules around the global transformer: patch encoder and patch decoder (paper, section 3)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lst.data.batch import PackedBatch
from lst.model.attention import Attend, Backend, SegmentAttention, plan
from lst.model.blocks import CrossAttention, FeedForward, RMSNorm, Rotation, SelfAttention, TransformerLayer, rotation
from lst.model.config import LSTConfig, TransformerConfig
from lst.model.linear import Linear
from lst.model.masks import CausalMask, MemberMask, PrefixMask
from lst.model.segments import Pooling, Segments, pool


@dataclass(frozen=True)
class LocalTokens:
    """The tokens that pass through the local modules: all of a batch, or only its speech units moved together.

    `tokens`, `documents`, `positions`, `patch_ids`, `visible`: (B, S) as in `PackedBatch`; `places` (B, S): where each
    stood in the batch, None when nothing moved.
    """

    tokens: Tensor
    documents: Tensor
    positions: Tensor
    patch_ids: Tensor
    visible: Tensor
    places: Tensor | None

    @staticmethod
    def all_of(batch: PackedBatch) -> "LocalTokens":
        """Every token, where it stands."""
        return LocalTokens(batch.tokens, batch.documents, batch.positions, batch.patch_ids, batch.visible, None)

    @staticmethod
    def units_of(batch: PackedBatch, unit_offset: int) -> "LocalTokens":
        """Only the speech units, in order, S = `batch.max_units`; shorter rows are padded (document 0)."""
        unit = (batch.tokens >= unit_offset) & (batch.documents > 0)
        places = torch.sort((~unit).to(torch.uint8), dim=1, stable=True).indices[:, : batch.max_units]
        inside = unit.gather(1, places)

        def take(values: Tensor) -> Tensor:
            return values.gather(1, places) * inside

        return LocalTokens(
            tokens=torch.where(inside, batch.tokens.gather(1, places), unit_offset),
            documents=take(batch.documents),
            positions=take(batch.positions),
            patch_ids=take(batch.patch_ids),
            visible=take(batch.visible),
            places=places,
        )


class PatchEncoder(nn.Module):
    """Tokens to patches: windowed self-attention layers, then one or more queries per patch over its own tokens.

    A query starts as the pooled states of the patch's tokens; the attended result is added to it, and the queries of a
    patch, joined, are mapped to the global width.
    """

    def __init__(self, config: TransformerConfig, global_dim: int, queries: int, pooling: Pooling, eps: float) -> None:
        super().__init__()
        self.config = config
        self.queries = queries
        self.pooling: Pooling = pooling
        self.layers = nn.ModuleList(TransformerLayer(config, eps) for _ in range(config.layers))
        # With one query the pooled state is the query itself; more need to differ.
        self.split = Linear(config.dim, queries * config.dim) if queries > 1 else None
        self.query_norm = RMSNorm(config.dim, eps)
        self.token_norm = RMSNorm(config.dim, eps)
        self.cross = CrossAttention(config, config.dim)
        self.output = Linear(queries * config.dim, global_dim)

    def tokens(self, x: Tensor, turn: Rotation, attend: Attend) -> Tensor:
        """Contextual token states (B, S, d) from embeddings (B, S, d)."""
        for layer in self.layers:
            x = layer(x, turn, attend)
        return x

    def patches(self, hidden: Tensor, segments: Segments, attend: Attend) -> Tensor:
        """Patch embeddings (B, P, global_dim) from token states (B, S, d); 0 for a patch without tokens here."""
        query = self.initial_queries(pool(hidden, segments, self.pooling))
        return self.finish(query, self.cross(self.query_norm(query), self.token_norm(hidden), attend))

    def initial_queries(self, pooled: Tensor) -> Tensor:
        """(B, P, d) pooled states to the queries (B, P * k, d)."""
        if self.split is None:
            return pooled
        split: Tensor = self.split(pooled)
        return split.reshape(len(split), -1, self.config.dim)

    def finish(self, query: Tensor, attended: Tensor) -> Tensor:
        """Queries and what they attended to, (B, P * k, d) each, to patch embeddings (B, P, global_dim)."""
        joined = (query + attended).reshape(len(query), -1, self.queries * self.config.dim)
        return self.output(joined)  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """Cross-attention to visible patches, then windowed self-attention, then feed-forward; all pre-norm residual."""

    def __init__(self, config: TransformerConfig, global_dim: int, eps: float) -> None:
        super().__init__()
        self.cross_norm = RMSNorm(config.dim, eps)
        self.cross = CrossAttention(config, global_dim)
        self.attention_norm = RMSNorm(config.dim, eps)
        self.attention = SelfAttention(config)
        self.ffn_norm = RMSNorm(config.dim, eps)
        self.ffn = FeedForward(config)

    def forward(self, x: Tensor, patches: Tensor, plans: "LocalPlans") -> Tensor:
        x = x + self.cross(self.cross_norm(x), patches, plans.prefix, plans.query_turn, plans.patch_turn)
        x = x + self.attention(self.attention_norm(x), plans.decoder_turn, plans.decoder)
        out: Tensor = x + self.ffn(self.ffn_norm(x))
        return out


class PatchDecoder(nn.Module):
    """Token states and the global transformer's patches to states that predict the next token."""

    def __init__(self, config: TransformerConfig, encoder_dim: int, global_dim: int, eps: float) -> None:
        super().__init__()
        self.config = config
        self.input = Linear(encoder_dim, config.dim) if encoder_dim != config.dim else nn.Identity()
        self.layers = nn.ModuleList(DecoderLayer(config, global_dim, eps) for _ in range(config.layers))
        self.norm = RMSNorm(config.dim, eps)

    def forward(self, hidden: Tensor, patches: Tensor, plans: "LocalPlans") -> Tensor:
        """`hidden` (B, S, d_encoder), `patches` (B, P, d_global). Returns normed states (B, S, d)."""
        x = self.input(hidden)
        for layer in self.layers:
            x = layer(x, patches, plans)
        return self.norm(x)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class LocalPlans:
    """Everything the local layers share within one batch: planned attentions and rotations."""

    segments: Segments
    members: Attend
    encoder: Attend
    encoder_turn: Rotation
    decoder: Attend
    decoder_turn: Rotation
    prefix: Attend
    query_turn: Rotation | None
    patch_turn: Rotation | None

    @staticmethod
    def of(config: LSTConfig, batch: PackedBatch, local: LocalTokens, backend: Backend) -> "LocalPlans":
        """Built once per batch. `config` must have local modules."""
        assert config.encoder is not None
        assert config.decoder is not None
        encoder, decoder = config.encoder, config.decoder
        patches = batch.patch_documents.shape[1]
        members = plan(MemberMask(local.patch_ids, local.documents, patches, config.queries_per_patch), backend)
        segments = (
            members.segments
            if isinstance(members, SegmentAttention)
            else Segments.of(MemberMask(local.patch_ids, local.documents, patches))
        )
        encoder_self = plan(CausalMask(local.documents, encoder.window), backend)
        encoder_turn = rotation(local.positions, encoder.head_dim, encoder.rope_theta)
        alike = encoder.window == decoder.window
        same_turn = (encoder.head_dim, encoder.rope_theta) == (decoder.head_dim, decoder.rope_theta)
        query_turn = patch_turn = None
        if config.cross_rope:
            # A query stands at its latest visible patch, so the distance to that patch is 0 whatever the patch length.
            latest = batch.patch_positions.gather(1, (local.visible - 1).clamp_min(0))
            query_turn = rotation(latest, decoder.head_dim, decoder.rope_theta)
            patch_turn = rotation(batch.patch_positions, decoder.head_dim, decoder.rope_theta)
        return LocalPlans(
            segments=segments,
            members=members,
            encoder=encoder_self,
            encoder_turn=encoder_turn,
            decoder=encoder_self if alike else plan(CausalMask(local.documents, decoder.window), backend),
            decoder_turn=(
                encoder_turn if same_turn else rotation(local.positions, decoder.head_dim, decoder.rope_theta)
            ),
            prefix=plan(PrefixMask(local.documents, local.visible, batch.patch_documents), backend),
            query_turn=query_turn,
            patch_turn=patch_turn,
        )
