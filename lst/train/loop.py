"""A plain training loop for small models (tokenizer, aligner, vocoder): one process, CPU or GPU, resumable.

The batch of a step, and the random numbers used in it, depend on the seed and the step alone. So a checkpoint needs no
state of the data, and a run that was killed ends with the same weights as one that was not. Models of the size of an
LST are trained by `lst.train.engine`.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import AdamW

from lst.config import StageConfig
from lst.errors import LstError
from lst.manifest import Progress, write_atomic, write_json
from lst.manifest.files import explain_os_errors, fsync_directory, remove
from lst.train.config import OptimizerConfig
from lst.train.control import RunControl, TrainingStopped, stop_signals
from lst.train.optimizer import build_optimizer
from lst.train.saving import INDEX, find_damage, save_state
from lst.train.schedule import lr_factor

CHECKPOINTS_KEPT = 2
"""The second newest is there if the newest is damaged."""

METRICS_FILE = "metrics.jsonl"


class LoopConfig(StageConfig):
    """A run's length, its optimiser, and how often it is looked at."""

    steps: int = Field(4000, ge=1, description="optimiser steps")
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="AdamW and its schedule")
    seed: int = Field(0, ge=0, lt=2**31, description="of the weights, the choice of the data, and dropout")
    log_every: int = Field(50, ge=1, description="steps between two lines of metrics.jsonl")
    validate_every: int = Field(500, ge=1, description="steps between validations; the best one's weights are kept")


@dataclass(frozen=True)
class Opponent:
    """A model that learns to tell what `LoopJob.model` makes from what is real; the two take turns in every step.

    after: steps that the first model is trained without it. against: the losses of the first model from then on,
    instead of `LoopJob.losses`; the opponent stays as it is meanwhile. losses: its own, of the same batch, afterwards;
    `loss` is what it minimises and is logged as `opponent_loss`, the others by their names.
    """

    model: nn.Module
    optimizer: OptimizerConfig
    after: int
    against: Callable[[Any], Mapping[str, Tensor]]
    losses: Callable[[Any], Mapping[str, Tensor]]


@dataclass(frozen=True)
class LoopJob:
    """What to train. `directory` is kept between attempts: a run that was stopped goes on from it.

    batch: the batch of a step, from a generator that is seeded for that step; on any device. losses: of a batch, by
    name; `loss` is what is minimised, all are logged. validate: numbers of the model in evaluation mode, by name;
    `loss` decides which weights are kept (the lowest); None, or `keep` "last": the last ones are kept.
    """

    directory: Path
    config: LoopConfig
    model: nn.Module
    batch: Callable[[torch.Generator], Any]
    losses: Callable[[Any], Mapping[str, Tensor]]
    validate: Callable[[], Mapping[str, float]] | None = None
    keep: Literal["best", "last"] = "best"
    opponent: Opponent | None = None
    device: str = "cpu"
    progress: Progress = lambda done, total, unit: None
    checkpoint_every_s: float = 60.0


@dataclass
class LoopState:
    """Where a run stands: everything that a checkpoint holds, tensors apart."""

    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    """Of the losses since the last line."""
    counts: dict[str, int] = field(default_factory=dict)
    """How many are in each sum."""
    best_step: int = 0
    best_loss: float = math.inf


def train_loop(job: LoopJob) -> list[dict[str, Any]]:
    """Train `job.model` in place, leave the best weights in it (on the CPU, in evaluation mode), and return the log.

    Lines: {"step", "split": "train", "loss", ..., "lr", "grad_norm", "steps_per_s"} and {"step", "split": "valid",
    ...}, also in `metrics.jsonl` and TensorBoard. Raises `TrainingStopped` after a stop signal (the run is saved), and
    LstError for a loss that is not a number, a device that is not there, or a full disk.
    """
    if job.device.startswith("cuda") and not torch.cuda.is_available():
        raise LstError(f"There is no device {job.device}.", hint="Use --device cpu.")
    job.directory.mkdir(parents=True, exist_ok=True)
    control = RunControl()
    with stop_signals(control), explain_os_errors(f"training in {job.directory}"):
        run = _Run(job)
        try:
            run.resume()
            while run.state.step < job.config.steps:
                run.one_step()
                if control.stopping:
                    break
        finally:
            run.log.close()
        if run.state.step < job.config.steps:
            run.save()
            raise TrainingStopped(
                f"Stopped after step {run.state.step} of {job.config.steps}; the run is saved.",
                hint="Run the same command again to continue.",
                signal_number=control.signal_number or 0,
            )
        return run.finish()


def step_generator(seed: int, step: int, what: str) -> torch.Generator:
    """Random numbers of one step for one purpose: the same wherever and whenever the step is done."""
    digest = hashlib.sha256(f"{seed}/{step}/{what}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def build_seeded(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    """A module whose initial weights depend on the seed alone; the caller's random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


class _Run:
    """One attempt."""

    def __init__(self, job: LoopJob) -> None:
        self.job = job
        self.config = job.config
        self.model = job.model.to(job.device)
        self.state = LoopState()
        self.best: dict[str, Tensor] = {}
        self.optimizer = build_optimizer(self.model, self.config.optimizer)
        self.opponent = job.opponent
        if self.opponent is not None:
            self.opponent_optimizer = build_optimizer(self.opponent.model.to(job.device), self.opponent.optimizer)
        self.log = _Log(job.directory)
        self._saved_at = monotonic()
        self._line_at = monotonic()
        self._line_step = 0

    def one_step(self) -> None:
        """A step, and what is due after it: a line, a validation, a checkpoint."""
        config, state = self.config, self.state
        opponent = self.opponent if self.opponent is not None and state.step >= self.opponent.after else None
        self.model.train()
        with torch.random.fork_rng(devices=_cuda_devices(self.job.device)):
            # Dropout draws from the global generators, and has no argument for another.
            torch.manual_seed(step_generator(config.seed, state.step, "dropout").initial_seed())
            batch = self.job.batch(step_generator(config.seed, state.step, "data"))
            if opponent is not None:
                opponent.model.train().requires_grad_(False)
            losses = dict((self.job.losses if opponent is None else opponent.against)(batch))
            lr, losses["grad_norm"] = self._update(self.model, self.optimizer, losses["loss"], config.optimizer)
            if opponent is not None:
                opponent.model.requires_grad_(True)
                own = dict(opponent.losses(batch))
                own["opponent_loss"] = own.pop("loss")
                losses |= own
                _, losses["opponent_grad_norm"] = self._update(
                    opponent.model, self.opponent_optimizer, own["opponent_loss"], opponent.optimizer, opponent.after
                )
        state.step += 1
        for name, value in losses.items():
            state.sums[name] = state.sums.get(name, 0.0) + float(value.detach())
            state.counts[name] = state.counts.get(name, 0) + 1
        ended = state.step == config.steps
        if state.step % config.log_every == 0 or ended:
            self._write_line(lr)
        if self.job.validate is not None and (state.step % config.validate_every == 0 or ended):
            self._validate(self.job.validate)
        if monotonic() - self._saved_at > self.job.checkpoint_every_s or ended:
            self.save()

    def _update(
        self, model: nn.Module, optimizer: AdamW, loss: Tensor, settings: OptimizerConfig, first: int = 0
    ) -> tuple[float, Tensor]:
        """A step of a model whose schedule begins at step `first`: the learning rate and the gradient's norm."""
        done = self.state.step - first
        lr = settings.lr * lr_factor(
            done, done / (self.config.steps - first), warmup_steps=settings.warmup_steps, final=settings.final_lr
        )
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(model.parameters(), settings.clip or math.inf)
        if not math.isfinite(float(norm)):
            raise LstError(
                f"The loss or its gradient is not a number in step {self.state.step + 1}.",
                hint="Use a smaller optimizer.lr, or look for damaged recordings; the last checkpoint is kept.",
            )
        optimizer.step()
        return lr, norm

    def _write_line(self, lr: float) -> None:
        state = self.state
        means = {name: total / state.counts[name] for name, total in state.sums.items()}
        speed = (state.step - self._line_step) / max(1e-9, monotonic() - self._line_at)
        self.log.write({"step": state.step, "split": "train", **means, "lr": lr, "steps_per_s": speed})
        state.sums, state.counts = {}, {}
        self._line_at, self._line_step = monotonic(), state.step
        self.job.progress(state.step, self.config.steps, f"steps, loss {means['loss']:.3f}")

    def _validate(self, validate: Callable[[], Mapping[str, float]]) -> None:
        self.model.eval()
        with torch.inference_mode():
            numbers = dict(validate())
        self.log.write({"step": self.state.step, "split": "valid", **numbers})
        if self.job.keep == "best" and numbers["loss"] < self.state.best_loss:
            self.state.best_loss, self.state.best_step = numbers["loss"], self.state.step
            self.best = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}

    def save(self) -> None:
        """Write a checkpoint, whole or not at all, and delete those that are too old."""
        final = self._checkpoints() / f"step-{self.state.step:08d}"
        temporary = final.with_suffix(".writing")
        remove(temporary)
        temporary.mkdir(parents=True)
        states = {
            "model.pt": self.model.state_dict(),
            "optimizer.pt": self.optimizer.state_dict(),
            "best.pt": self.best,
        }
        if self.opponent is not None:
            states["opponent.pt"] = self.opponent.model.state_dict()
            states["opponent_optimizer.pt"] = self.opponent_optimizer.state_dict()
        files = {name: save_state(temporary / name, state) for name, state in states.items()}
        best_loss = None if math.isinf(self.state.best_loss) else self.state.best_loss
        state = {**vars(self.state), "best_loss": best_loss}
        write_json(temporary / INDEX, {"step": self.state.step, "state": state, "files": files})
        remove(final)
        temporary.rename(final)
        fsync_directory(final.parent)
        for old in self._saved()[:-CHECKPOINTS_KEPT]:
            remove(old)
        self._saved_at = monotonic()

    def resume(self) -> None:
        """Go on from the newest checkpoint that is whole; damaged ones are deleted."""
        while saved := self._saved():
            newest = saved[-1]
            if find_damage(newest) is None:
                self._load(newest)
                break
            remove(newest)
        self.log.open(self.state.step)
        self._line_step = self.state.step

    def _load(self, checkpoint: Path) -> None:
        def read(name: str) -> Any:
            return torch.load(checkpoint / name, map_location="cpu", weights_only=True)

        body = json.loads((checkpoint / INDEX).read_text(encoding="utf-8"))["state"]
        self.state = LoopState(**{**body, "best_loss": math.inf if body["best_loss"] is None else body["best_loss"]})
        self.model.load_state_dict(read("model.pt"))
        self.optimizer.load_state_dict(read("optimizer.pt"))
        self.best = read("best.pt")
        if self.opponent is not None:
            self.opponent.model.load_state_dict(read("opponent.pt"))
            self.opponent_optimizer.load_state_dict(read("opponent_optimizer.pt"))

    def _checkpoints(self) -> Path:
        return self.job.directory / "checkpoints"

    def _saved(self) -> list[Path]:
        return sorted(path for path in self._checkpoints().glob("step-[0-9]*") if not path.suffix)

    def finish(self) -> list[dict[str, Any]]:
        """The best weights into the model, and all lines."""
        if self.best:
            self.model.load_state_dict(self.best)
        self.model.to("cpu").eval()
        return self.log.lines()


class _Log:
    """`metrics.jsonl` and TensorBoard. Lines after the step a run resumes from are removed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / METRICS_FILE
        self._board: Any = None

    def open(self, step: int) -> None:
        """Go on after `step`."""
        from torch.utils.tensorboard import SummaryWriter

        kept = [line for line in self.lines() if line["step"] <= step]
        write_atomic(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        self._board = SummaryWriter(  # type: ignore[no-untyped-call]
            str(self._directory / "tensorboard"), purge_step=step + 1
        )

    def write(self, line: dict[str, Any]) -> None:
        """Add a line."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        for name, value in line.items():
            if isinstance(value, float):
                self._board.add_scalar(f"{line['split']}/{name}", value, line["step"])
        self._board.flush()

    def lines(self) -> list[dict[str, Any]]:
        """All lines so far; a last line cut short by a kill is left out."""
        if not self._path.is_file():
            return []
        lines = []
        for text in self._path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break
        return lines

    def close(self) -> None:
        """Close TensorBoard's file, if it was opened."""
        if self._board is not None:
            self._board.close()


def artifacts_of(directory: Path) -> list[str]:
    """The names of a run's log files, relative to its directory: part of what is committed."""
    boards = [path.relative_to(directory).as_posix() for path in sorted((directory / "tensorboard").glob("events*"))]
    return [METRICS_FILE, *boards]


def _cuda_devices(device: str) -> list[int]:
    return [torch.device(device).index or 0] if device.startswith("cuda") else []
