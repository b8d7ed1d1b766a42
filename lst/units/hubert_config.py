"""Sizes of a HuBERT, and how it is trained. Nothing here needs torch."""

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from lst.config import StageConfig


class NetworkConfig(StageConfig):
    """Sizes of the network. The defaults make 5.1 M parameters."""

    mel_bands: int = Field(default=80, ge=8, le=128)
    floor_db: float | None = Field(
        default=None, gt=0, description="sound so far below the speech is not heard, so noise that weak changes little"
    )
    detail_channels: int = Field(
        default=0, ge=0, description="of two convolutions over time and frequency beside the stacked log-mel; 0: none"
    )
    dim: int = Field(default=256, ge=8)
    layers: int = Field(default=6, ge=1, le=48)
    heads: int = Field(default=4, ge=1)
    ffn_dim: int = Field(default=1024, ge=8)
    pos_kernel: int = Field(default=32, ge=2, description="frames of 40 ms that the position convolution spans")
    pos_groups: int = Field(default=16, ge=1)
    pos_depth: int = Field(default=1, ge=1, description="convolutions in the position encoder; the kernel is their sum")
    reach: int = Field(default=32, ge=0, description="frames before and after that a layer attends to; 0: all")
    dropout: float = Field(default=0.1, ge=0, lt=1)
    mask_span: int = Field(default=5, ge=1, description="frames in a masked span (200 ms)")
    mask_share: float = Field(default=0.15, gt=0, lt=1, description="share of frames masked, were spans not to overlap")
    clusters: int = Field(default=501, ge=2, description="clusters that are predicted")
    temperature: float = Field(default=0.1, gt=0, description="of the cosine logits")

    @model_validator(mode="after")
    def _heads_fit(self) -> "NetworkConfig":
        if self.dim % self.heads or self.dim % self.pos_groups:
            raise ValueError("dim must be a multiple of heads and of pos_groups")
        return self


class PretrainConfig(StageConfig):
    """How long, how fast, on what."""

    steps: int = Field(default=8000, ge=1, description="updates")
    frames: int = Field(default=800, ge=400, multiple_of=400, description="frames of 40 ms per update")
    lr: float = Field(default=1.5e-3, gt=0, description="peak learning rate of AdamW")
    warmup_steps: int = Field(default=200, ge=0)
    decay_share: float = Field(
        default=0.4, ge=0, le=1, description="last share of the steps, in which the rate falls to 0"
    )
    weight_decay: float = Field(default=0.02, ge=0)
    clip: float = Field(default=1.0, gt=0, description="largest norm of the gradient")
    unmasked_weight: float = Field(
        default=10.0, ge=0, description="of the mean loss on frames that are not masked, beside that on masked ones"
    )
    phone_loss: float = Field(
        default=0.0,
        ge=0,
        description="weight of finding the phone (any of its clusters), beside finding the cluster, where it is known",
    )
    disturb: bool = Field(
        default=True, description="noise, gain, colour, band limit, speed and vocal tract length in what is heard"
    )
    codec: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of rows that go through a codec too: Opus, Vorbis, or mu-law or GSM at 8 kHz",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="bfloat16", description="of matrix products; bfloat16 doubles the speed where the processor has it"
    )
    seed: int = Field(default=0, ge=0)
    log_every: int = Field(default=50, ge=1)
    validate_every: int = Field(default=500, ge=1)
    checkpoint_seconds: float = Field(default=240.0, gt=0)

    @model_validator(mode="after")
    def _codec_disturbs(self) -> "PretrainConfig":
        if self.codec and not self.disturb:
            raise ValueError("codec is one of the disturbances, which disturb=false turns off: leave one of them out")
        return self

    @model_serializer(mode="wrap")
    def _as_before_there_was_codec(self, settings: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """`codec` is left out where there is none. A serializer, for this is a part of other settings."""
        body: dict[str, Any] = settings(self)
        return {key: value for key, value in body.items() if value or key != "codec"}


class HubertConfig(StageConfig):
    """From audio to a HuBERT and its codebook (`lst train-tokenizer --kind hubert`)."""

    targets: str = Field(
        default="mfcc",
        description="whose clustered features are predicted: mfcc (iteration 0), a tokenizer (iteration n), or the "
        "directory of a CTranslate2 Whisper (a teacher)",
    )
    targets_layer: int | None = Field(
        default=None, ge=1, description="layer of the teacher; empty: its own or the last"
    )
    layer: int | None = Field(default=None, ge=1, description="layer whose features become units; empty: the last")
    units_from: Literal["features", "prediction", "phones"] = Field(
        default="features",
        description="features: k-means on those of `layer`. prediction: the cluster that the network predicts, which "
        "stands noise better. phones: a linear map of the last layer that tells most of the phone",
    )
    stability: float = Field(
        default=0.02, ge=0, description="units_from phones: weight of giving the same units under noise"
    )
    head_steps: int = Field(default=300, ge=1, description="units_from phones: steps of fitting the map")
    head_frames: int = Field(default=200_000, ge=1, description="units_from phones: frames that it is fitted on")
    discriminants: int = Field(
        default=0,
        ge=0,
        description="cluster on so many directions that tell phones apart (LDA on a forced alignment of transcribed "
        "audio), for targets of teachers and for units; 0: on the features themselves",
    )
    phone_weight: float = Field(
        default=0.0,
        ge=0,
        description="how much the phones of aligned frames count in the targets of teachers, in deviations within a "
        "phone; 0: only the features",
    )
    silence_clusters: int = Field(
        default=0, ge=0, description="at most so many clusters of silence, with `phone_weight`; 0: as many as come"
    )
    aligner: str = Field(default="pocketsphinx", description="finds the phones")
    phones_hours: float = Field(default=1.25, gt=0, description="transcribed audio that is aligned, drawn at random")
    fit_hours: float = Field(default=3.0, gt=0, description="audio that clusters are fitted on, drawn at random")
    init: str = Field(default="", description="a tokenizer made by this command: its weights are the start")
    network: NetworkConfig = NetworkConfig()
    training: PretrainConfig = PretrainConfig()

    @property
    def validates_phones(self) -> bool:
        """Whether phones of the validation audio are wanted."""
        return bool(self.training.phone_loss and self.phone_weight)

    @model_validator(mode="after")
    def _phone_loss_needs_clusters_of_phones(self) -> "HubertConfig":
        needs = self.training.phone_loss or self.silence_clusters or self.units_from == "phones"
        if needs and not self.phone_weight:
            raise ValueError(
                "training.phone_loss, silence_clusters and units_from phones need clusters of phones: set phone_weight"
            )
        return self

    @model_validator(mode="after")
    def _prediction_is_of_the_last_layer(self) -> "HubertConfig":
        if self.units_from != "features" and self.layer not in (None, self.network.layers):
            raise ValueError(f"units_from {self.units_from} takes the last layer: leave `layer` out")
        return self
