"""From the data's row stream to the steps of a run: batches per process, and how much of the budget they use."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lst.data.loader import Loader
from lst.data.patching import Example
from lst.data.stream import RowStream
from lst.data.vocabulary import Vocabulary
from lst.errors import LstError
from lst.train.config import BatchConfig, BudgetConfig

if TYPE_CHECKING:
    from lst.data.batch import PackedBatch


def steps_in_budget(budget: BudgetConfig, batch: BatchConfig) -> int | None:
    """Steps of a run, for the kinds of budget that fix them: the last one may overshoot the amount."""
    if budget.kind == "steps":
        return math.ceil(budget.amount)
    if budget.kind == "compute":
        return math.ceil(budget.amount / batch.units)
    return None


class BudgetedStream:
    """The training steps of one process over a `RowStream`; the trainer's `TrainStream`.

    A step takes `batch.rows` consecutive rows, whatever the number of processes: the state says how far all of them
    are together.
    """

    def __init__(
        self, rows: RowStream, vocabulary: Vocabulary, batch: BatchConfig, budget: BudgetConfig, rank: int, world: int
    ) -> None:
        self._stream = rows
        self._loader = Loader(rows, rows=batch.rows // world, rank=rank, world=world)
        self._vocabulary = vocabulary
        self._batch = batch
        self._budget = budget
        self._steps = 0
        self._flops = 0.0

    @property
    def total_steps(self) -> int | None:
        """Steps in the whole budget, where that is known beforehand."""
        return steps_in_budget(self._budget, self._batch)

    @property
    def progress(self) -> float:
        """Share of the budget used by the steps handed out, 0..1."""
        total = self.total_steps
        if total is not None:
            return min(1.0, self._steps / total)
        if self._budget.kind == "flops":
            return min(1.0, self._flops / self._budget.amount)
        tokens = sum(tally.original for tally in self._stream.mixture.read.values())
        return min(1.0, tokens / self._budget.amount)

    def next_step(self) -> "list[PackedBatch]":
        """This process's batches of one step. Raises LstError when the data has ended before the budget."""
        rows = next(self._loader, None)
        if not rows:
            raise LstError("The data has ended before the budget was used up.", hint="Let the epochs repeat.")
        self._steps += 1
        return pack_in_parts(rows, self._batch.accumulate, self._vocabulary)

    def account(self, flops: float) -> None:
        """Count what the step just handed out costs all processes together."""
        self._flops += flops

    def state_dict(self) -> dict[str, Any]:
        """Where the run is, in rows of all processes; plain values."""
        return {"rows": self._loader.state_dict(), "steps": self._steps, "flops": self._flops}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there. Raises LstError if the state is of other data or settings."""
        self._loader.load_state_dict(state["rows"])
        self._steps, self._flops = int(state["steps"]), float(state["flops"])


def pack_in_parts(rows: Sequence[list[Example]], parts: int, vocabulary: Vocabulary) -> "list[PackedBatch]":
    """`rows` as `parts` batches of about equal numbers of rows."""
    from lst.data.batch import pack_examples

    size = math.ceil(len(rows) / parts)
    return [pack_examples(list(rows[start : start + size]), vocabulary) for start in range(0, len(rows), size)]


def valid_batches(
    rows: Iterator[list[Any]], limit: int, per_batch: int, vocabulary: Vocabulary, rank: int, world: int
) -> "list[PackedBatch]":
    """The first `limit` packed rows of a validation stream, this process's share of them, as batches.

    All processes get the same number of batches, as their collective operations need: where the last row is missing,
    the first one stands in without targets, so that it counts for nothing.
    """
    mine: list[list[Example]] = []
    first: list[Example] = []
    count = 0
    while count < limit and (plans := next(rows, None)) is not None:
        if count == 0:
            first = [plan.build() for plan in plans]
        if count % world == rank:
            mine.append([plan.build() for plan in plans])
        count += 1
    if len(mine) < math.ceil(count / world):
        mine.append([replace(item, loss_mask=np.zeros_like(item.loss_mask)) for item in first])
    return pack_in_parts(mine, math.ceil(len(mine) / per_batch), vocabulary) if mine else []
