"""Training with fairseq2's `Recipe` and `Trainer`, in this process.

From fairseq2: the trainer's loop, gradient accumulation and normalisation, DDP, clipping, mixed precision, the random
states, gangs, the model family with activation checkpointing, the logs. Of our own, behind fairseq2's interfaces:
checkpoints (whole or absent, hashed, any number of processes), the metric recorder, the validator, the data reader,
the learning rate (it follows the budget), and stopping on signals. `docs/training.md` says why.

Importing this module costs seconds: import it inside the function that trains.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import soundfile  # noqa: F401  (before fairseq2: it brings the libsndfile that fairseq2 needs)
import torch

from lst.data.batch import PackedBatch
from lst.errors import LstError
from lst.manifest import Progress, explain_os_errors
from lst.model.lst import LST
from lst.train.config import TrainerConfig, WordsConfig
from lst.train.contain import contained, log_to_file
from lst.train.control import RunControl, TrainingStopped, stop_signals
from lst.train.together import process_rank, world_size

log = logging.getLogger("lst.train")


class TrainStream(Protocol):
    """Where batches come from. The state is the same on every process: it counts rows of all of them."""

    @property
    def progress(self) -> float:
        """Share of the budget used by the steps handed out, 0..1; at 1 there is no further step."""

    @property
    def total_steps(self) -> int | None:
        """Steps in the whole budget, where that is known beforehand."""

    def next_step(self) -> list[PackedBatch]:
        """This process's batches of one step, one per accumulation."""

    def account(self, flops: float) -> None:
        """Take note of the FLOPs of the step just handed out, over all processes."""

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""


@dataclass(frozen=True)
class TrainingJob:
    """What to train, on what, where. `directory` is kept between attempts: a killed run goes on from it."""

    directory: Path
    config: TrainerConfig
    build_model: Callable[[], LST]
    open_stream: Callable[[int, int], TrainStream]
    """(rank, number of processes) -> this process's share of the data."""
    open_valid: Callable[[int, int], Mapping[str, Sequence[PackedBatch]]] = lambda rank, world: {}
    """(rank, number of processes) -> this process's share of each validation set."""
    count_flops: Callable[[PackedBatch], float] = lambda batch: 0.0
    """FLOPs of a training step on a batch, forward and backward."""
    unit_frames: Sequence[int] | None = None
    """40 ms frames behind each unit id, where units are pieces of a unit BPE; otherwise one each."""
    words: WordsConfig | None = None
    """Weights of the loss by which patches of speech name words, whose targets the stream then has to give."""
    keep_best: bool = False
    """Return the weights of the best validation instead of the last ones."""
    best: str = "loss"
    """The number of a validation that is lowest in the best one; the loss where a validation lacks it."""
    measure: Callable[[LST], Mapping[str, float]] | None = None
    """More numbers of a validation, from the model in evaluation mode; not asked of a sharded model."""
    progress: Progress = lambda done, total, unit: None
    wandb_project: str | None = None


@dataclass
class TrainingResult:
    """`model` in evaluation mode on the CPU; `totals` as in the metrics, since the start of the run."""

    model: LST
    steps: int
    totals: dict[str, float]
    first: dict[str, Any] = field(default_factory=dict)
    """The first line of the metrics of training."""
    train: dict[str, Any] = field(default_factory=dict)
    """The last one."""
    valid: dict[str, Any] = field(default_factory=dict)
    """Losses of the validation that belongs to the returned weights."""


def train(job: TrainingJob) -> TrainingResult:
    """Train until the budget is used up.

    Raises `TrainingStopped` if a stop signal came (the run is saved and goes on when called again), `LstError` for a
    full disk, for data without a single step, and for a loss that is not a number (the rows of the batch are saved
    beside the checkpoints).
    """
    from fairseq2.recipe.run import run
    from fairseq2.task import TaskStopException

    from lst.train.recipe import LSTRecipe, recipe_config

    rank = process_rank()
    log_file = job.directory / ("train.log" if rank == 0 else f"train-{rank}.log")
    job.directory.mkdir(parents=True, exist_ok=True)
    control = RunControl()
    recipe = LSTRecipe(job, control, on_ready=lambda: log_to_file(log_file))
    with contained(), stop_signals(control):
        try:
            run(recipe, recipe_config(job), job.directory / "fairseq2", no_rich=True)
        except TaskStopException:
            log.info("Ended after step %d.", control.step)  # it was asked to: by a signal, or by the budget's end
        except Exception as error:
            with explain_os_errors(f"training in {job.directory}"):
                raise _explained(error) from error
    if control.finished and control.step:
        return recipe.result()
    if control.signal_number is None:
        raise LstError("There is no data to train on.", hint="Check the splits of the pairs and of the text.")
    total = recipe.total_steps
    raise TrainingStopped(
        f"Stopped after step {control.step}{f' of {total}' if total else ''}; the run is saved.",
        hint="Run the same command again to continue.",
        signal_number=control.signal_number,
    )


def _explained(error: Exception) -> Exception:
    """The error a user can act on behind one of fairseq2's, if there is one."""
    cause: BaseException | None = error
    while cause is not None:
        if world_size() > 1 and _is_lost_connection(cause):
            return LstError(
                "Another process of this run has died or cannot be reached; its own message says why, if it left one.",
                hint="What was saved is kept. Run the same command again to continue.",
            )
        if isinstance(cause, LstError | OSError):
            return cause
        cause = cause.__cause__
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return LstError(
            "The GPU's memory is full.",
            hint="Use a smaller batch.rows, a larger batch.accumulate, or activation_checkpointing=true.",
        )
    return error


def _is_lost_connection(error: BaseException) -> bool:
    """Whether a collective operation failed because another process is gone: the back ends raise bare RuntimeErrors."""
    import torch.distributed as dist

    text = str(error).lower()
    named = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "socket timeout")
    return isinstance(error, dist.DistError | ConnectionError) or (
        isinstance(error, RuntimeError) and any(n in text for n in named)
    )
