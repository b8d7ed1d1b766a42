"""fairseq2's wav2vec2 encoder for a single process, without the seconds that its registry takes to start.

A linear layer that is not told its device and which processes share it asks fairseq2's registry, and making that
imports every model family there is and, with them, transformers and scikit-learn. Here the layers are told.
"""

import torch
from fairseq2.gang import Gangs, create_fake_gangs
from fairseq2.models.transformer import (
    FeedForwardNetwork,
    IdentityBias,
    MultiheadAttention,
    RelativePositionalEncoding,
    StandardFeedForwardNetwork,
    StandardMultiheadAttention,
    create_default_sdpa,
)
from fairseq2.models.wav2vec2 import Wav2Vec2EncoderConfig, Wav2Vec2EncoderFactory
from fairseq2.nn import init_bert_projection
from fairseq2.runtime.lazy import Lazy
from torch import nn


class EncoderFactory(Wav2Vec2EncoderFactory):
    """`Wav2Vec2EncoderFactory` for encoders with positions from a convolution: the same layers, the same draws."""

    def __init__(self, config: Wav2Vec2EncoderConfig) -> None:
        if config.use_conformer or config.pos_encoder_type != "conv":
            raise ValueError("These layers are for transformers with positions from a convolution.")
        super().__init__(config)
        self._alone: Gangs = create_fake_gangs(torch.device("cpu"))

    def create_self_attention(self, lazy_rel_pos_encoding: Lazy[RelativePositionalEncoding]) -> MultiheadAttention:
        """As the base class does, without sharding."""
        config = self._config
        return StandardMultiheadAttention(
            config.model_dim,
            config.num_encoder_attn_heads,
            create_default_sdpa(IdentityBias(), dropout_p=config.attn_dropout_p),
            qkv_proj_init_fn=init_bert_projection,
            output_proj_init_fn=init_bert_projection,
            gangs=self._alone,
            device=torch.get_default_device(),
        )

    def create_ffn(self, use_swish: bool = False) -> FeedForwardNetwork:
        """As the base class does, without sharding."""
        config = self._config
        return StandardFeedForwardNetwork(
            config.model_dim,
            config.ffn_inner_dim,
            bias=True,
            inner_activation=nn.SiLU() if use_swish else nn.GELU(),
            inner_dropout_p=config.ffn_inner_dropout_p,
            proj_init_fn=init_bert_projection,
            gangs=self._alone,
            device=torch.get_default_device(),
        )
