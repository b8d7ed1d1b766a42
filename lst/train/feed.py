"""How batches reach fairseq2's trainer, and what is done with one: its data reader and its train unit."""

import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Self

import torch
from fairseq2.datasets import DataReader
from fairseq2.device import SupportsDeviceTransfer
from fairseq2.gang import Gangs, all_sum
from fairseq2.metrics import MetricBag
from fairseq2.recipe.base import Recipe as _  # noqa: F401  (first, else its modules import each other in a circle)
from fairseq2.trainer import TrainUnit
from torch import Tensor, nn

from lst.data.batch import PackedBatch
from lst.errors import LstError
from lst.manifest import write_json
from lst.model.loss import LossOutput
from lst.model.lst import LST
from lst.model.rates import loss_counts
from lst.train.control import RunControl
from lst.train.engine import TrainingJob, TrainStream
from lst.train.metrics import TALLY, BatchCounter, Tally, in_order
from lst.train.words import WordHeads, WordLoss, word_counts


class LossModule(nn.Module):
    """The model as the trainer sees it: DDP needs a `forward` that ends in the loss. `words`: what names words, if the
    run asks for that."""

    def __init__(self, lst: LST, words: WordHeads | None = None) -> None:
        super().__init__()
        self.lst = lst
        self.words = words

    def forward(self, batch: PackedBatch) -> tuple[Tensor, ...]:
        """The fields of the batch's `LossOutput`, in order; in training then those of its `WordLoss`, if any."""
        prepared = self.lst.prepare(batch)
        made = self.lst.run(batch, prepared)
        out = _values(self.lst.loss_of(batch, prepared, made))
        if self.words is None or not self.training:
            return out
        return out + _values(self.words(self.lst, made.outputs, batch.words))


def split_losses(values: Sequence[Tensor]) -> tuple[LossOutput, WordLoss | None]:
    """What `LossModule` gave, by name."""
    count = len(fields(LossOutput))
    return LossOutput(*values[:count]), WordLoss(*values[count:]) if len(values) > count else None


def _values(losses: LossOutput | WordLoss) -> tuple[Tensor, ...]:
    return tuple(getattr(losses, field.name) for field in fields(losses))


class DeviceBatch(SupportsDeviceTransfer):
    """A batch that moves in place, as fairseq2 wants it, with what was counted before it moved."""

    def __init__(self, packed: PackedBatch, counts: dict[str, float]) -> None:
        self.packed = packed
        self.counts = counts

    def to(self, device: torch.device, *, non_blocking: bool = False) -> None:
        self.packed = self.packed.to(device, non_blocking=non_blocking)


class StreamReader(DataReader[DeviceBatch]):
    """Feeds the trainer from the job's stream; between steps it reports progress and agrees on stopping."""

    def __init__(
        self,
        job: TrainingJob,
        control: RunControl,
        gangs: Gangs,
        counter: BatchCounter,
        between_steps: Callable[[], None],
    ) -> None:
        self._job = job
        self._control = control
        self._gangs = gangs
        self._counter = counter
        self._between_steps = between_steps
        self.stream: TrainStream = job.open_stream(gangs.dp.rank, gangs.dp.size)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> list[DeviceBatch]:
        control, alone = self._control, self._gangs.root.size == 1
        if self.stream.progress >= 1.0:
            control.finish()
            raise StopIteration
        # A signal may reach one process only; all of them stop after the same step.
        if not alone and int(all_sum(self._gangs.root, int(control.signal_number is not None))):
            control.stop()
        self._between_steps()
        batches = [self._counted(batch) for batch in self.stream.next_step()]
        flops = sum(batch.counts["flops"] for batch in batches)
        self.stream.account(flops if alone else float(all_sum(self._gangs.dp, flops)))
        if self.stream.progress >= 1.0:
            control.finish()
        return batches

    def _counted(self, batch: PackedBatch) -> DeviceBatch:
        return DeviceBatch(batch, self._counter(batch, self._job.count_flops(batch)))

    def reset(self) -> None:
        """Nothing: the stream has no end of its own."""

    def state_dict(self) -> dict[str, object]:
        return {"stream": self.stream.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.stream.load_state_dict(state_dict["stream"])

    @property
    def num_accumulate(self) -> int:
        return self._job.config.batch.accumulate


class LossUnit(TrainUnit[DeviceBatch]):
    """One forward pass: the loss summed over targets, and their number, by which fairseq2 divides the gradients."""

    def __init__(self, job: TrainingJob, module: nn.Module, control: RunControl) -> None:
        self._job = job
        self._module = module
        self._control = control
        self._step = 0

    def prepare_metric_bag(self, metric_bag: MetricBag) -> None:
        metric_bag.add(TALLY, Tally())

    def set_step_nr(self, step_nr: int) -> None:
        self._step = step_nr

    def process_batch(self, batch: DeviceBatch, metric_bag: MetricBag) -> tuple[Tensor, int]:
        output, words = split_losses(self._module(batch.packed))
        losses = loss_counts(output)
        loss = output.loss
        if words is not None:
            loss = loss + words.loss
            losses |= word_counts(words)
        lost = next((value for value in losses.values() if not math.isfinite(value)), None)
        if lost is not None:
            self._refuse(batch.packed, lost)
        metric_bag.get(TALLY, Tally).update(in_order(losses | batch.counts))
        if losses["targets"]:
            self._control.last_loss = losses["loss"] / losses["targets"]
        self._control.step = self._step
        return loss, batch.packed.num_targets

    def _refuse(self, batch: PackedBatch, loss: float) -> None:
        path = self._job.directory / f"bad-batch-step-{self._step}-{self._control.rank}.json"
        write_json(path, {"step": self._step, "loss": str(loss), "rows": batch.ids})
        raise LstError(
            f"The loss of step {self._step} is {loss}; the ids of the batch's rows are in {path}.",
            hint="Look at those rows, or lower optimizer.lr; the last checkpoint is from before this step.",
        )
