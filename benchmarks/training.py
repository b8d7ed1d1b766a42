"""What fairseq2's trainer costs per step, against a bare loop over the same batches, model and optimiser.

    python -m benchmarks.training

The overhead is the difference of two CPU times of one thread: of a model so small that the difference shows, and of
`nano`, where it has to stay small. Median over steps, runs alternating.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.loader import emit, pair_shard, text_shard
from lst.data.loader import vocabulary_of
from lst.data.mixture import MixtureConfig
from lst.data.patching import PatchingConfig
from lst.manifest import StageSpec, build_shards
from lst.model.config import LSTConfig, TransformerConfig
from lst.model.init import build_model
from lst.model.presets import preset
from lst.text.train import train_tokenizer
from lst.train.config import BatchConfig, BudgetConfig, CheckpointConfig, OptimizerConfig, TrainerConfig
from lst.train.engine import TrainingJob, train
from lst.train.inputs import DataSpec
from lst.train.plan import flops_counter
from lst.train.recipe import build_optimizer

WARM = 3
VOCABULARY = 380


def main() -> None:
    """Print one line per model."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        model = train_tokenizer(["the cat sat on the mat and the dog ran " * 20], VOCABULARY)
        make: dict[str, Any] = {"artifacts": {"tokenizer.model": model}}
        data = (
            build_shards(root / "pairs", StageSpec("lst.pairs/1", "interleave", 1, {}), [0], pair_shard, **make),
            build_shards(root / "text", StageSpec("lst.text/1", "tokenize-text", 1, {}), [0], text_shard, **make),
        )
        text_size = vocabulary_of(data[0]).text_size
        measure("tiny", _tiny(text_size), BatchConfig(sequence_units=128, rows=2), 60, data, root)
        measure("nano", preset("nano", text_size=text_size), BatchConfig(sequence_units=512, rows=8), 16, data, root)


def measure(name: str, shape: LSTConfig, batch: BatchConfig, steps: int, data: Any, root: Path) -> None:
    config = TrainerConfig(
        batch=batch,
        budget=BudgetConfig(amount=steps),
        optimizer=OptimizerConfig(warmup_steps=2),
        checkpoint=CheckpointConfig(every_steps=10_000, every_seconds=None),
    )
    spec = DataSpec(*data, config, shape.patching, MixtureConfig(), vocabulary_of(data[0]))
    times: dict[str, list[float]] = {"bare": [], "fairseq2": []}
    losses = {}
    for turn in range(2):
        clock = Clock()
        job = TrainingJob(
            root / f"{name}-{turn}",
            config,
            build_model=lambda: build_model(shape, seed=0),
            open_stream=spec.open(flops_counter(shape)),
            count_flops=flops_counter(shape),
            progress=clock.report,
        )
        losses["fairseq2"] = train(job).totals["loss"]
        times["fairseq2"] += clock.gaps()
        clock = Clock()
        losses["bare"] = bare_loop(config, spec, shape, clock.stamp)
        times["bare"] += clock.gaps()
    bare, ours = (statistics.median(times[kind]) for kind in ("bare", "fairseq2"))
    emit(
        f"training.{name}",
        parameters=sum(value.numel() for value in build_model(shape).parameters()),
        global_units_per_step=batch.units,
        cpu_ms_per_step=1e3 * ours,
        bare_cpu_ms_per_step=1e3 * bare,
        overhead_ms=1e3 * (ours - bare),
        overhead_share=ours / bare - 1,
        steps_per_cpu_s=1 / ours,
        same_loss=abs(losses["bare"] / losses["fairseq2"] - 1) < 1e-6,
    )


def bare_loop(config: TrainerConfig, spec: DataSpec, shape: LSTConfig, stamp: Callable[[], None]) -> float:
    """The same steps without a trainer: no metrics, no checkpoints, no signals. Returns the summed loss."""
    from lst.train.schedule import lr_factor

    model = build_model(shape, seed=0).train()
    optimizer = build_optimizer(model, config.optimizer)
    stream = spec.open(flops_counter(shape))(0, 1)
    total, step = 0.0, 0
    while stream.progress < 1.0:
        stamp()
        factor = lr_factor(step, stream.progress, warmup_steps=config.optimizer.warmup_steps, final=0.01)
        for group in optimizer.param_groups:
            group["lr"] = config.optimizer.lr * factor
        (batch,) = stream.next_step()
        out = model.loss(batch)
        (out.loss / batch.num_targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        total += float(out.loss.detach())
        step += 1
    stamp()
    return total


def _tiny(text_size: int) -> LSTConfig:
    def stack(dim: int, window: int | None = None) -> TransformerConfig:
        return TransformerConfig(layers=1, dim=dim, heads=2, window=window)

    return LSTConfig(
        text_size=text_size,
        patching=PatchingConfig(mode="static"),
        encoder=stack(16, 32),
        global_transformer=stack(32),
        decoder=stack(16, 32),
    )


class Clock:
    """CPU time between steps."""

    def __init__(self) -> None:
        self._stamps: list[float] = []

    def stamp(self) -> None:
        self._stamps.append(time.process_time())

    def report(self, done: int, total: int, unit: str) -> None:
        """As the progress callback of a run, which is called between steps."""
        self.stamp()

    def gaps(self) -> list[float]:
        """Seconds per step, without the first ones and the end."""
        return [after - before for before, after in pairwise(self._stamps)][WARM:-1]


if __name__ == "__main__":
    main()
