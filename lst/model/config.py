"""The shape of a model: every dimension of the three modules, the vocabulary, and the patching it is trained with.

Free of torch, so that the command line can check a recipe and count parameters without loading it.
"""

from typing import Literal

from pydantic import Field, model_validator

from lst.config import StageConfig
from lst.data.patching import PatchingConfig
from lst.data.vocabulary import Vocabulary

FFN_ROUNDING = 32
"""The hidden width of a feed-forward layer is rounded up to a multiple of this."""


class TransformerConfig(StageConfig):
    """One stack of Llama layers (RMSNorm, RoPE attention, SwiGLU; no biases, no dropout)."""

    layers: int = Field(ge=1, description="number of layers")
    dim: int = Field(ge=2, description="width of the hidden states")
    heads: int = Field(ge=1, description="attention heads; must divide dim into even parts")
    kv_heads: int | None = Field(None, ge=1, description="heads of keys and values; must divide heads (none: as heads)")
    ffn_multiple: float = Field(
        8 / 3, gt=0, description="hidden width of the feed-forward layer over dim (rounded up to a multiple of 32)"
    )
    window: int | None = Field(None, ge=1, description="sees so many latest tokens, itself included (none: all)")
    rope_theta: float = Field(5e5, gt=1, description="base of the rotary position frequencies")

    @model_validator(mode="after")
    def _divides(self) -> "TransformerConfig":
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise ValueError(
                f"{self.heads} heads do not divide dim {self.dim} into even parts; rotary positions need an even head "
                f"width, for example {_nearest_heads(self.dim, self.heads)} heads"
            )
        if self.heads % self.num_kv_heads:
            raise ValueError(f"kv_heads {self.kv_heads} does not divide heads {self.heads}")
        return self

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def num_kv_heads(self) -> int:
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def ffn_hidden(self) -> int:
        return -(-int(self.dim * self.ffn_multiple + 1e-6) // FFN_ROUNDING) * FFN_ROUNDING


class LSTConfig(StageConfig):
    """A Latent Speech-Text Transformer (method: section 3 of the paper), or with `patching.mode` none or bpe the base
    SpeechLLM: the global transformer alone, over tokens.
    """

    name: str = Field("custom", description="the preset it came from, for people")
    text_size: int = Field(ge=1, description="text pieces of the tokenizer")
    num_units: int = Field(501, ge=1, description="speech units (or pieces of the unit BPE)")
    patching: PatchingConfig = Field(PatchingConfig(), description="how speech is patched in training")
    encoder: TransformerConfig | None = Field(None, description="patch encoder; none without patches")
    global_transformer: TransformerConfig = Field(description="the large transformer over patches and text tokens")
    decoder: TransformerConfig | None = Field(None, description="patch decoder; none without patches")
    pooling: Literal["max", "mean", "last"] = Field("max", description="how a patch query starts from its tokens")
    queries_per_patch: int = Field(1, ge=1, le=16, description="queries per patch, joined into one patch (BLT's k)")
    text_local: bool = Field(
        True, description="text tokens pass through the local modules (false: straight into the global transformer)"
    )
    cross_rope: bool = Field(True, description="rotary patch positions in the decoder's cross-attention")
    tied_heads: bool = Field(False, description="the head shares the embedding's weights")
    norm_eps: float = Field(1e-5, gt=0, description="added to the mean square in RMSNorm")

    @model_validator(mode="after")
    def _consistent(self) -> "LSTConfig":
        if self.is_base:
            if self.encoder is not None or self.decoder is not None:
                raise ValueError(
                    f"patching '{self.patching.mode}' has no local modules: leave encoder and decoder out, "
                    "or use static patching with size 1"
                )
        elif self.encoder is None or self.decoder is None:
            raise ValueError(f"patching '{self.patching.mode}' needs both an encoder and a decoder")
        if self.tied_heads and self.encoder is not None and self.decoder is not None:
            if self.encoder.dim != self.decoder.dim:
                raise ValueError(
                    f"tied_heads needs equal widths, but encoder.dim is {self.encoder.dim} and decoder.dim "
                    f"{self.decoder.dim}"
                )
            if not self.text_local:
                raise ValueError("tied_heads with text_local false would tie tables of different vocabularies")
        if self.global_transformer.window is not None:
            raise ValueError("global_transformer.window: the global transformer sees its whole document, leave it out")
        return self

    @property
    def is_base(self) -> bool:
        """A plain decoder-only language model: no patches, no local modules."""
        return self.patching.mode in ("none", "bpe")

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.text_size, self.num_units)


def _nearest_heads(dim: int, heads: int) -> int:
    fitting = [count for count in range(1, dim // 2 + 1) if dim % count == 0 and (dim // count) % 2 == 0]
    return min(fitting, key=lambda count: abs(count - heads), default=1)
