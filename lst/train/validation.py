"""Validation while training: losses per set and modality, and the best weights if they are wanted."""

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from fairseq2.gang import Gangs, ReduceOperation, broadcast_flag
from fairseq2.recipe.base import Recipe as _  # noqa: F401  (first, else its modules import each other in a circle)
from fairseq2.validator import Validator
from safetensors.torch import load_file, save_file

from lst.data.batch import PackedBatch
from lst.manifest.files import explain_os_errors, fsync_directory, fsync_file, write_json
from lst.model.loss import LossOutput
from lst.model.lst import LST
from lst.model.rates import loss_counts, rates
from lst.train.control import RunControl
from lst.train.feed import LossModule
from lst.train.metrics import COUNTS, BatchCounter, RunRecorder, in_order, named
from lst.train.shards import is_sharded, whole_state

if TYPE_CHECKING:
    from lst.train.engine import TrainingJob

BEST = "best.json"


class LossValidator(Validator):
    """fairseq2's interface to our validation.

    A valid line has `loss` and `bits` per target over all sets, `speech_bits_per_second` and `text_bits_per_token` of
    the set with that modality's name where there is one (else over all sets), and all of them per set.
    """

    def __init__(
        self,
        job: "TrainingJob",
        module: LossModule,
        sets: Mapping[str, Sequence[PackedBatch]],
        counter: BatchCounter,
        gangs: Gangs,
        recorder: RunRecorder,
        control: RunControl,
    ) -> None:
        self._config = job.config
        self._keep_best = job.keep_best
        self._best_by = job.best
        self._measure = job.measure
        self._directory = job.directory
        self._module = module
        self._sets = sets
        self._counter = counter
        self._gangs = gangs
        self._recorder = recorder
        self._control = control

    def run(self, train_step_nr: int) -> float | None:
        """Validate, unless the process is stopping before its time. fairseq2 gets no score: the best is kept here."""
        if self._control.finished or not self._control.stopping or self._scheduled(train_step_nr):
            self._validate(train_step_nr)
        return None

    def reset(self) -> None:
        """Nothing is carried from one validation to the next."""

    def resume(self, step: int) -> None:
        """The run goes on from `step`: what was best later has not happened."""
        best = self._best()
        if self._gangs.root.rank == 0 and best is not None and best["step"] > step:
            (self._directory / BEST).unlink()

    def catch_up(self, step: int) -> None:
        """Validate a checkpoint's step if the process was killed between the two."""
        missing = self._scheduled(step) and self._recorder.last_step("valid") < step
        if broadcast_flag(self._gangs.root, missing):
            self._module.eval()
            self._validate(step)
            self._module.train()

    def _scheduled(self, step: int) -> bool:
        every = self._config.validate_every
        return every is not None and step > 0 and step % every == 0

    @torch.no_grad()
    def _validate(self, step: int) -> None:
        sums = {name: self._sum(batches) for name, batches in self._sets.items()}
        everything = {name: sum(part[name] for part in sums.values()) for name in COUNTS}
        line: dict[str, Any] = rates(everything)
        losses = {name: rates(part) for name, part in sums.items()}
        for modality, key in (("speech", "speech_bits_per_second"), ("text", "text_bits_per_token")):
            if key in losses.get(modality, {}):
                line[key] = losses[modality][key]
        line["sets"] = losses
        first = self._gangs.root.rank == 0
        if first and self._measure is not None and not is_sharded(self._module):
            line |= self._measure(self._module.lst)
        if first:
            self._recorder.record_metric_values("valid", line, step)
        if not self._keep_best or "loss" not in line:
            return
        best = self._best() if first else None
        if broadcast_flag(self._gangs.root, first and (best is None or self._score(line) < self._score(best))):
            weights = unique_weights(self._module.lst, whole_state(self._module.lst))
            if first:
                self._save_best({"step": step, **line}, weights)

    def _score(self, line: Mapping[str, Any]) -> float:
        """What is lowest in the best validation."""
        return float(line.get(self._best_by, line["loss"]))

    def _sum(self, batches: Sequence[PackedBatch]) -> dict[str, float]:
        """Sums of `COUNTS` over a set, all processes together."""
        device = self._gangs.device
        bf16 = self._config.dtype == "bfloat16"
        total = torch.zeros(len(COUNTS), dtype=torch.float64, device=device)
        for batch in batches:
            with torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
                output = LossOutput(*self._module(batch.to(device)))
            counts = in_order(loss_counts(output) | self._counter(batch))
            total += torch.tensor(counts, dtype=torch.float64, device=device)
        if self._gangs.dp.size > 1:
            self._gangs.dp.all_reduce(total, ReduceOperation.SUM)
        return named(total)

    def _best(self) -> dict[str, Any] | None:
        path = self._directory / BEST
        if not path.is_file():
            return None
        best: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return best

    def _save_best(self, line: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
        # The name carries the step: the record is written last and never points to other weights.
        path = self._weights(line["step"])
        with explain_os_errors(f"saving the best weights in {self._directory}"):
            save_file(weights, path)
            fsync_file(path)
            write_json(self._directory / BEST, line)
            for old in self._directory.glob("best-*.safetensors"):
                if old != path:
                    old.unlink()
            fsync_directory(self._directory)

    def _weights(self, step: int) -> Path:
        return self._directory / f"best-{step:08d}.safetensors"

    def load_best(self, model: LST) -> dict[str, Any]:
        """Put the best weights into `model` and return their validation line (empty if there was none)."""
        best = self._best()
        if best is None:
            return {}
        model.load_state_dict(load_file(self._weights(best["step"])), strict=False)
        return best


def unique_weights(model: LST, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`state`, the whole state of `model`, with each tied tensor once."""
    names = {id(value): name for name, value in reversed(model.state_dict(keep_vars=True).items())}
    return {name: state[name].contiguous() for name in names.values()}
