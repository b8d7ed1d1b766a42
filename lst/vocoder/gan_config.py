"""How a GAN vocoder is trained: all settings."""

from typing import Literal

from pydantic import Field

from lst.config import StageConfig
from lst.train.config import OptimizerConfig
from lst.vocoder.discriminators import DiscriminatorShape
from lst.vocoder.pieces import TrainNetworkConfig
from lst.vocoder.synthesis import SynthesisShape


class LossWeights(StageConfig):
    """How much each loss of the vocoder counts; that of a listener is `listening`."""

    frames: float = Field(1.0, ge=0, description="of the predicted frames, as for the kind convnext")
    spectra: float = Field(2.0, ge=0, description="of the waveform's log-mel spectra at three resolutions")
    features: float = Field(1.0, ge=0, description="of what the discriminators' layers see")
    verdict: float = Field(1.0, ge=0, description="of what the discriminators say")


class TrainGanConfig(TrainNetworkConfig):
    """How a GAN vocoder is trained."""

    kind: Literal["gan"] = "gan"
    steps: int = Field(20_000, ge=1, description="optimiser steps")
    alone: float = Field(0.1, ge=0, lt=1, description="share of these before there are discriminators")
    optimizer: OptimizerConfig = Field(
        OptimizerConfig(lr=5e-4, betas=(0.8, 0.99), weight_decay=0.01, warmup_steps=100),
        description="AdamW and its schedule, of the vocoder",
    )
    against: OptimizerConfig = Field(
        OptimizerConfig(lr=3e-4, betas=(0.8, 0.99), weight_decay=0.01, warmup_steps=100),
        description="AdamW and its schedule, of the discriminators",
    )
    synthesis: SynthesisShape = Field(SynthesisShape(), description="what makes the waveform")
    discriminators: DiscriminatorShape = Field(DiscriminatorShape(), description="their shapes")
    weights: LossWeights = Field(LossWeights(), description="of the losses")
    judged_units: int = Field(16, ge=2, description="units of a piece that the discriminators hear, at most all")
    own_pitch: float = Field(
        0.25, ge=0, lt=1, description="share of pieces with the F0 and voicing predicted, not those of the recording"
    )
    start: str = Field("", description="a ConvNeXt vocoder, name or directory, whose network the frames begin with")
    freeze: bool = Field(False, description="leave the network of the frames as `start` has it")
