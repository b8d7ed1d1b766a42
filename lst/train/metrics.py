"""What a run counts, and how it is written: `metrics.jsonl`, TensorBoard, and on request Weights & Biases.

Counts are sums since the start of the run. They are part of the checkpoint, so a resumed run writes the same numbers
as an undisturbed one; a line holds what was added since the line before it.
"""

import hashlib
import importlib.util
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from fairseq2.metrics.recorders import MetricRecorder
from torch import Tensor
from torcheval.metrics import Metric

from lst.data.batch import PackedBatch
from lst.data.vocabulary import Vocabulary
from lst.errors import LstError
from lst.model.rates import FrameCounter, rates
from lst.train.memory import PeakMemory

TALLY = "total_tally"
"""Its name in fairseq2's metric bag; the trainer resets everything whose name does not begin with `total_`."""

COUNTS = (
    "loss",  # nats, over all targets
    "targets",
    "speech_loss",
    "speech_targets",
    "text_loss",
    "text_targets",
    "text_to_speech_loss",  # of units whose document held text before them
    "speech_to_text_loss",  # of text pieces whose document held units before them
    "speech_to_text_targets",
    "speech_frames",  # 40 ms frames behind the speech targets: as many, except with a unit BPE
    "text_to_speech_frames",
    "units",  # speech units read (the frames behind them, with a unit BPE)
    "text_tokens",  # text pieces read
    "global_units",  # steps of the global transformer: patches and text tokens
    "speech_patches",
    "positions",  # places for patches in the packed rows, filled or not
    "flops",
    "ended_loss",  # nats of naming the words that end in patches, and those that come next (`lst.train.words`)
    "ended_targets",
    "next_loss",
    "next_targets",
)
"""What a tally adds up, in order."""

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12, "4090": 165e12}
"""Dense bfloat16 FLOP/s by a part of the device's name, from the vendor's data sheets: what MFU is a share of."""


class Tally(Metric[Tensor]):
    """Sums of `COUNTS` as one (len(COUNTS),) float64 vector: one update per batch, exact up to 2^53."""

    def __init__(self, *, device: torch.device | None = None) -> None:
        super().__init__(device=device)
        self.values: Tensor
        self._add_state("values", torch.zeros(len(COUNTS), dtype=torch.float64, device=device))

    @torch.inference_mode()
    def update(self, values: Iterable[float]) -> "Tally":
        """Add one batch's counts, in the order of `COUNTS`."""
        self.values += torch.tensor(list(values), dtype=torch.float64, device=self.values.device)
        return self

    @torch.inference_mode()
    def compute(self) -> Tensor:
        """(len(COUNTS),) float64."""
        return self.values

    @torch.inference_mode()
    def merge_state(self, metrics: Iterable["Tally"]) -> "Tally":
        """Add what other processes counted."""
        for metric in metrics:
            self.values += metric.values.to(self.values.device)
        return self


class BatchCounter:
    """Counts what is in a batch, losses apart; on the CPU, before the batch goes to its device.

    `unit_frames`: 40 ms frames behind each unit id, where they are pieces of a unit BPE.
    """

    def __init__(self, vocabulary: Vocabulary, unit_frames: Sequence[int] | None = None) -> None:
        self._vocabulary = vocabulary
        self._frames = FrameCounter(vocabulary, unit_frames)

    def __call__(self, batch: PackedBatch, flops: float = 0.0) -> dict[str, float]:
        """Every entry of `COUNTS` but losses and their targets."""
        return {
            **self._frames.targets(batch),
            "units": self._frames.tokens(batch.tokens),
            "text_tokens": float((batch.tokens < self._vocabulary.text_size).sum()),
            "global_units": float(batch.global_units),
            "speech_patches": float(((batch.patch_documents > 0) & ~batch.patch_is_text).sum()),
            "positions": float(batch.patch_documents.numel()),
            "flops": flops,
        }


def as_counted_now(values: Tensor) -> Tensor:
    """A tally's vector in this version's length: of what an older version did not count there is nothing yet.

    New counts are added at the end of `COUNTS` only, so that a run can go on with a later version.
    """
    return torch.cat([values, values.new_zeros(len(COUNTS) - len(values))])


def in_order(counts: Mapping[str, float]) -> list[float]:
    """`counts` as a vector for `Tally.update`; what is missing is 0."""
    return [counts.get(name, 0.0) for name in COUNTS]


def named(values: Tensor) -> dict[str, float]:
    """A tally's vector by name."""
    return dict(zip(COUNTS, values.tolist(), strict=True))


def word_rates(counts: Mapping[str, float]) -> dict[str, float]:
    """Bits it takes to name a word, of those that end in patches and of those that come next; none without any."""
    return {
        f"{name}_word_bits": counts[f"{name}_loss"] / counts[f"{name}_targets"] / math.log(2.0)
        for name in ("ended", "next")
        if counts[f"{name}_targets"]
    }


def composition(counts: Mapping[str, float]) -> dict[str, float]:
    """What the data was made of: units per patch, the mixture as shares, how full the rows were."""
    out = {}
    if counts["speech_patches"]:
        out["patch_length"] = counts["units"] / counts["speech_patches"]
    tokens = counts["units"] + counts["text_tokens"]
    if tokens:
        out["speech_share"] = counts["units"] / tokens
    if counts["positions"]:
        out["packing"] = counts["global_units"] / counts["positions"]
    return out


class RunRecorder(MetricRecorder):
    """Writes one line per logged step to `metrics.jsonl` and the same numbers to TensorBoard.

    A train line: `{"step", "split": "train", "loss" (nats per target), "bits", "speech_bits_per_second",
    "text_bits_per_token", "ended_word_bits", "next_word_bits" (with word targets), "patch_length", "speech_share",
    "packing", "lr", "grad_norm", "seconds", "units_per_s", "text_tokens_per_s", "peak_memory_mb" (of this process,
    above what it held before the model was built), "mfu" (known
    GPUs), "total": {counts since the start}}`. A valid line has losses only, and
    under `sets` those of each validation set. Lines after the step a run resumes from are removed.
    """

    def __init__(
        self,
        directory: Path,
        log_every: int,
        device: torch.device,
        *,
        finished: Callable[[], bool] = lambda: False,
        memory: PeakMemory | None = None,
        wandb_project: str | None = None,
    ) -> None:
        self._directory = directory
        self._path = directory / "metrics.jsonl"
        self._log_every = log_every
        self._finished = finished
        self._device = device
        self._memory = memory
        self._peak = _peak_flops(device)
        self._previous = dict.fromkeys(COUNTS, 0.0)
        self._at_resume = dict.fromkeys(COUNTS, 0.0)
        self._board: Any = None
        self._wandb: Any = None
        self._wandb_project = wandb_project
        if wandb_project is not None and importlib.util.find_spec("wandb") is None:
            raise LstError("Weights & Biases is not installed.", hint="Install it (lst[wandb]), or leave --wandb out.")
        self._last_step = {"train": -1, "valid": -1}
        self._resume_step = 0

    def resume(self, step: int, totals: Mapping[str, float]) -> None:
        """Forget what was logged after `step`, where the run goes on; `totals` are the counts up to there."""
        lines = self.lines()
        kept = [line for line in lines if line["step"] <= step]
        for line in kept:
            self._last_step[line["split"]] = line["step"]
            if line["split"] == "train":
                self._previous = dict.fromkeys(COUNTS, 0.0) | line["total"]
        if step and step % self._log_every == 0 and self._last_step["train"] < step:
            # Killed between the checkpoint and the line of the same step.
            kept.append(self._train_line(step, totals, {}))
        if kept or lines:
            text = "".join(json.dumps(line) + "\n" for line in kept)
            temporary = self._path.with_suffix(".writing")
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, self._path)
        self._resume_step = step
        self._at_resume = dict(totals)

    def last_step(self, split: str) -> int:
        """The step of the newest line of `train` or `valid`, -1 if there is none."""
        return self._last_step[split]

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

    def record_metric_values(self, category: str, values: Mapping[str, object], step_nr: int | None = None) -> None:
        """Called by the trainer after every interval (`train`) and by the validator (`valid`)."""
        step = step_nr or 0
        if step <= self._last_step[category]:
            return
        if category == "valid":
            self._write({"step": step, "split": "valid", **values})
        elif step % self._log_every == 0 or self._finished():
            self._write(self._train_line(step, named(_tensor(values[TALLY])), values))
        # else it was stopped between two lines: the next one covers these steps

    def _train_line(self, step: int, totals: Mapping[str, float], values: Mapping[str, object]) -> dict[str, Any]:
        added = {name: totals[name] - self._previous[name] for name in COUNTS}
        line: dict[str, Any] = {
            "step": step,
            "split": "train",
            **rates(added),
            **word_rates(added),
            **composition(added),
        }
        if "lr" in values:
            lr = values["lr"]
            line["lr"] = float(lr[0] if isinstance(lr, list) else lr)  # type: ignore[arg-type]
            line["grad_norm"] = float(_tensor(values["grad_norm"]))
            self._add_speed(line, totals, float(values["lapse_time"]))  # type: ignore[arg-type]
        line["total"] = dict(totals)
        self._previous = dict(totals)
        self._last_step["train"] = step
        return line

    def _add_speed(self, line: dict[str, Any], totals: Mapping[str, float], seconds: float) -> None:
        """Rates over the steps of this process since its last line."""
        done = {name: totals[name] - max(self._previous[name], self._at_resume[name]) for name in COUNTS}
        if seconds <= 0:
            return
        line["units_per_s"] = done["units"] / seconds
        line["text_tokens_per_s"] = done["text_tokens"] / seconds
        line["seconds"] = seconds
        peak = None if self._memory is None else self._memory.bytes(self._device)
        if peak is not None:
            line["peak_memory_mb"] = round(peak / 2**20)
        if self._peak is not None:
            line["mfu"] = done["flops"] / seconds / self._peak

    def _write(self, line: dict[str, Any]) -> None:
        self._last_step[line["split"]] = line["step"]
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        scalars = {f"{line['split']}/{key}": value for key, value in line.items() if isinstance(value, float)}
        for name, losses in line.get("sets", {}).items():
            scalars |= {f"{line['split']}/{name}/{key}": value for key, value in losses.items()}
        board = self._tensorboard()
        for key, value in scalars.items():
            board.add_scalar(key, value, line["step"])
        board.flush()
        if self._wandb_project is not None:
            self._wandb_run().log(scalars, line["step"])

    def _tensorboard(self) -> Any:
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(  # type: ignore[no-untyped-call]
                str(self._directory / "tensorboard"), purge_step=self._resume_step + 1
            )
        return self._board

    def _wandb_run(self) -> Any:
        if self._wandb is None:
            import wandb

            # The directory is named by the content id: a resumed run goes on with its own curves.
            identity = hashlib.sha256(str(self._directory).encode()).hexdigest()[:12]
            self._wandb = wandb.init(project=self._wandb_project, id=identity, dir=str(self._directory), resume="allow")
        return self._wandb

    def close(self) -> None:
        """Close TensorBoard's file and the Weights & Biases run, if they were opened."""
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def _peak_flops(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)


def _tensor(value: object) -> Tensor:
    return value if isinstance(value, Tensor) else torch.as_tensor(value)
