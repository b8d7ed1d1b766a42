"""Settings that pre-training and fine-tuning share. Free of torch, so that a recipe is checked without loading it."""

from typing import Any, Literal

from pydantic import Field, model_validator

from lst.config import StageConfig

Dtype = Literal["float32", "bfloat16"]
"""Weights and optimiser are float32 always; bfloat16 is what the forward and backward passes are computed in."""


class OptimizerConfig(StageConfig):
    """AdamW with a linear warm-up and a cosine down to a share of the peak (paper, section 4)."""

    lr: float = Field(4e-4, gt=0, description="peak learning rate")
    final_lr: float = Field(0.01, ge=0, le=1, description="learning rate at the end, as a share of the peak")
    warmup_steps: int = Field(100, ge=0, description="steps of linear warm-up; the first step has lr / warmup_steps")
    betas: tuple[float, float] = Field((0.9, 0.95), description="decay of AdamW's two moments")
    eps: float = Field(1e-8, gt=0, description="added to AdamW's denominator")
    weight_decay: float = Field(0.1, ge=0, description="decoupled decay of matrices; vectors (norm gains) have none")
    clip: float | None = Field(1.0, gt=0, description="largest gradient norm; null: no clipping")

    @model_validator(mode="after")
    def _betas(self) -> "OptimizerConfig":
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {self.betas} must lie in [0, 1)")
        return self


class BatchConfig(StageConfig):
    """What one optimiser step sees, over all processes together."""

    sequence_units: int = Field(1024, ge=8, description="length of a row in global units: patches and text tokens")
    rows: int = Field(8, ge=1, description="rows per step, over all processes")
    accumulate: int = Field(1, ge=1, description="pieces a process cuts its rows into, to save memory")

    @property
    def units(self) -> int:
        """Global units per step."""
        return self.rows * self.sequence_units


class BudgetConfig(StageConfig):
    """When training is over. The learning rate and the curriculum follow the share of the budget that is used."""

    kind: Literal["steps", "compute", "flops", "data"] = Field(
        "steps",
        description="steps; compute: global units, as the paper counts; flops: all modules, forward and backward; "
        "data: speech units and text tokens",
    )
    amount: float = Field(1000, gt=0, description="how many of them")


class WordsConfig(StageConfig):
    """Weights of an additional loss: the state of a speech patch, at which it is known, names words (not in the paper).

    A small model learns to understand speech much sooner with it (docs/training.md). The words are those of the
    alignment, each named by its first text token.
    """

    ended: float = Field(0.5, ge=0, description="of naming the word that ends in a patch")
    next: float = Field(0.7, ge=0, description="of naming, at every patch, the first word that ends after it")

    @model_validator(mode="after")
    def _some(self) -> "WordsConfig":
        if not self.ended and not self.next:
            raise ValueError("words.ended and words.next are both 0: set words to null")
        return self


class CheckpointConfig(StageConfig):
    """How often a run in progress is saved. It does not change the result, so it is not part of the content id."""

    every_steps: int | None = Field(1000, ge=1, description="save after so many steps; null: by time only")
    every_seconds: float | None = Field(300, gt=0, description="save when so many seconds have passed; null: never")
    keep: int = Field(2, ge=2, description="checkpoints to keep; the second newest is there if the newest is damaged")

    @model_validator(mode="after")
    def _some(self) -> "CheckpointConfig":
        if self.every_steps is None and self.every_seconds is None:
            raise ValueError("every_steps and every_seconds are both null: a killed run would lose everything")
        return self


class TrainerConfig(StageConfig):
    """Everything about a run that does not depend on the task."""

    batch: BatchConfig = Field(BatchConfig(), description="what one step sees")
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="AdamW and its schedule")
    budget: BudgetConfig = Field(BudgetConfig(), description="when training is over")
    seed: int = Field(0, ge=0, lt=2**31, description="of the weights, the order of the data and its interleaving")
    log_every: int = Field(10, ge=1, description="steps between two lines of metrics.jsonl")
    validate_every: int | None = Field(None, ge=1, description="steps between validations; null: only at the end")
    valid_rows: int = Field(64, ge=1, description="at most so many packed rows per modality are validated")
    dtype: Dtype = Field("float32", description="precision of the forward and backward passes")
    activation_checkpointing: bool = Field(False, description="recompute activations backward, to save memory")
    compile: bool = Field(False, description="torch.compile the feed-forward layers and norms")
    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp", description="of several processes each holds the whole model (ddp), or a part of every layer (fsdp)"
    )
    checkpoint: CheckpointConfig = Field(CheckpointConfig(), description="saving a run in progress")

    @model_validator(mode="after")
    def _intervals(self) -> "TrainerConfig":
        if self.validate_every is not None and self.validate_every % self.log_every:
            raise ValueError(
                f"validate_every ({self.validate_every}) must be a multiple of log_every ({self.log_every})"
            )
        every = self.checkpoint.every_steps
        if every is not None and every % self.log_every:
            raise ValueError(f"checkpoint.every_steps ({every}) must be a multiple of log_every ({self.log_every})")
        if self.batch.rows % self.batch.accumulate:
            raise ValueError(
                f"batch.rows ({self.batch.rows}) must be a multiple of batch.accumulate ({self.batch.accumulate})"
            )
        return self

    def as_json(self) -> dict[str, Any]:
        """The settings that determine the result: all but how often it is saved and how processes share the work."""
        return self.model_dump(mode="json", exclude={"checkpoint", "parallel"})
