"""Training steps: LST against base on the same kind of data, achieved FLOP/s, loader against trainer, peak memory.

    python -m benchmarks.steps            # micro
    python -m benchmarks.steps 420m 256   # another shape, packed rows of 256 global units

One thread, float32, forward and backward over packed rows of the paper's mixture (one third interleaved speech). CPU
seconds, the median of several rounds per batch, LST and base in turns; both share one global transformer. The optimiser
is left out of the times (its share falls with the batch) and is in the memory.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.generation import models
from benchmarks.loader import emit, pair_shard, text_shard
from lst.data.batch import PackedBatch, pack_examples
from lst.data.loader import Loader, open_stream, vocabulary_of
from lst.data.mixture import MixtureConfig
from lst.data.patching import PatchingConfig
from lst.data.stream import DataConfig, Horizon
from lst.manifest import Manifest, StageSpec, build_shards
from lst.model.flops import batch_counts, forward_flops, mixture_counts, training_flops
from lst.model.linear import product
from lst.model.lst import LST
from lst.model.plan import training_memory
from lst.model.presets import preset
from lst.text.train import train_tokenizer
from lst.train.memory import PeakMemory

VOCABULARY = 380
BATCHES = 2
WARM_UP = 2
"""Rounds not counted: in them the first model, LST, pays for memory that a virtual machine was not given before."""
ROUNDS = 7


def main() -> None:
    """Print one line per figure."""
    torch.set_num_threads(1)
    shape = sys.argv[1] if len(sys.argv) > 1 else "micro"
    budget = int(sys.argv[2]) if len(sys.argv) > 2 else 1024
    accounting(shape)
    with tempfile.TemporaryDirectory() as scratch:
        data = synthesize(Path(scratch))
        text_size = vocabulary_of(data[0]).text_size
        batches = {"lst": rows(data, "static", budget)}
        peak = PeakMemory()
        patched, base = models(shape, text_size=text_size, inference=False)
        if shape == "micro":
            memory(patched, batches["lst"][0][0], peak)
        batches["base"] = rows(data, "none", budget)
        compare(shape, {"lst": patched, "base": base}, {name: made for name, (made, _) in batches.items()})
        if shape == "micro":
            feed(patched, *batches["lst"])


def rows(data: tuple[Manifest, Manifest], mode: str, budget: int) -> tuple[list[PackedBatch], float]:
    """Packed rows of `budget` global units, one per batch, and the loader's CPU seconds per original token."""
    config = DataConfig(budget=budget, mixture=MixtureConfig())
    stream = open_stream(*data, config, PatchingConfig(mode=mode), horizon=Horizon(1000))  # type: ignore[arg-type]
    loader, vocabulary = Loader(stream, rows=1), vocabulary_of(data[0])
    batches = [pack_examples(next(loader), vocabulary) for _ in range(BATCHES)]
    start, tokens = time.process_time(), 0
    for _ in range(20):
        tokens += pack_examples(next(loader), vocabulary).num_tokens
    return batches, (time.process_time() - start) / tokens


def step_seconds(model: LST, batch: PackedBatch) -> float:
    """CPU seconds of one forward and backward pass."""
    start = time.process_time()
    model.loss(batch).loss.backward()
    taken = time.process_time() - start
    model.zero_grad(set_to_none=True)
    return taken


def compare(shape: str, models: dict[str, LST], batches: dict[str, list[PackedBatch]]) -> None:
    """Seconds per original token of LST over those of base, beside both accountings; and FLOP/s beside a product's."""
    steps: dict[tuple[str, int], list[float]] = {}
    plain, fastest = [], []
    square = torch.randn(2048, 2048)
    for _ in range(WARM_UP + ROUNDS):
        for index in range(BATCHES):
            for name, model in models.items():
                steps.setdefault((name, index), []).append(step_seconds(model, batches[name][index]))
        for times, multiply in ((plain, torch.mm), (fastest, product)):
            start = time.process_time()
            multiply(square, square)
            times.append(time.process_time() - start)
    tokens = {name: sum(batch.num_tokens for batch in made) for name, made in batches.items()}
    units = {name: sum(batch.global_units for batch in made) for name, made in batches.items()}
    flops = {
        name: sum(training_flops(model.config, batch_counts(model.config, batch)) for batch in batches[name])
        for name, model in models.items()
    }

    def seconds_by(statistic: Callable[[list[float]], float]) -> dict[str, float]:
        return {name: sum(statistic(steps[name, i][WARM_UP:]) for i in range(BATCHES)) for name in models}

    seconds = seconds_by(median)

    def ratio(what: dict[str, Any]) -> float:
        return what["lst"] / tokens["lst"] / (what["base"] / tokens["base"])

    emit(
        f"training.{shape} LST static 4 against base, same data",
        global_units_ratio=ratio(units),
        flops_ratio=ratio(flops),
        time_ratio=ratio(seconds),
        time_over_flops_ratio=ratio(seconds) / ratio(flops),
        time_over_flops_ratio_by_least=ratio(seconds_by(min)) / ratio(flops),
        original_tokens_per_s=tokens["lst"] / seconds["lst"],
        base_original_tokens_per_s=tokens["base"] / seconds["base"],
        goal="time_over_flops_ratio within 10% of 1",
    )
    gigaflops = 2e-9 * len(square) ** 3
    achieved = 1e-9 * flops["lst"] / seconds["lst"]
    emit(
        f"training.{shape} achieved",
        gflops_per_s=achieved,
        base_gflops_per_s=1e-9 * flops["base"] / seconds["base"],
        torch_matmul_gflops_per_s=gigaflops / median(plain),
        onednn_matmul_gflops_per_s=gigaflops / median(fastest),
        share_of_torch_matmul=achieved * median(plain) / gigaflops,
        share_of_onednn_matmul=achieved * median(fastest) / gigaflops,
        goal="share_of_torch_matmul >= 0.6",
    )


def accounting(shape: str) -> None:
    """LST over base per original token of the paper's mixture: sequence units only (the paper's), and all FLOPs."""
    base = preset(shape, text_size=32_000, base="same-global")
    before = sum(forward_flops(base, mixture_counts(base)).values())
    found = {}
    for name, text_local in (("text_through_local_modules", True), ("text_past_them", False)):
        config = preset(shape, text_size=32_000).model_copy(update={"text_local": text_local})
        counts = mixture_counts(config)
        found["sequence_units"] = 1 / counts.tokens
        found[f"all_flops_{name}"] = sum(forward_flops(config, counts).values()) / counts.tokens / before
    emit(f"training.{shape} accounting, LST static 4 over base", **found)


def feed(model: LST, batches: list[PackedBatch], loader_seconds: float) -> None:
    """The loader's original tokens per second over the trainer's."""
    taken = min(step_seconds(model, batches[0]) for _ in range(2)) / batches[0].num_tokens
    emit(
        "training.micro loader against trainer",
        loader_tokens_per_s=1 / loader_seconds,
        trainer_tokens_per_s=1 / taken,
        times_as_fast=taken / loader_seconds,
        goal=">= 50",
    )


def memory(model: LST, batch: PackedBatch, peak: PeakMemory) -> None:
    """Peak of a step with AdamW, beside what `lst model` predicts. `peak`: made before there was a model."""
    predicted = training_memory(model.config, batch_counts(model.config, batch), activation_bytes=4)
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(2):  # the optimiser's state comes with the first step
        model.loss(batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    measured = peak.bytes(torch.device("cpu"))
    assert measured is not None, "only Linux tells"
    emit(
        "training.micro peak memory",
        measured_mb=measured / 2**20,
        predicted_mb=predicted.total / 2**20,
        ratio=measured / predicted.total,
        goal="within 20% of 1",
    )


def synthesize(root: Path) -> tuple[Manifest, Manifest]:
    """Pairs of 10 s utterances and text documents, as in `benchmarks.loader`, one shard each."""
    make: dict[str, Any] = {
        "artifacts": {"tokenizer.model": train_tokenizer(["the cat sat on the mat and the dog ran " * 20], VOCABULARY)}
    }
    return (
        build_shards(root / "pairs", StageSpec("lst.pairs/1", "interleave", 1, {}), [0], pair_shard, **make),
        build_shards(root / "text", StageSpec("lst.text/1", "tokenize-text", 1, {}), [0], text_shard, **make),
    )


if __name__ == "__main__":
    main()
