"""The plain training loop: a run that is stopped, killed or damaged ends like one that was not."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lst.errors import LstError
from lst.train.config import OptimizerConfig
from lst.train.control import TrainingStopped
from lst.train.loop import LoopConfig, LoopJob, artifacts_of, build_seeded, step_generator, train_loop

CONFIG = LoopConfig(
    steps=30, log_every=5, validate_every=10, optimizer=OptimizerConfig(lr=0.05, warmup_steps=3), seed=7
)
TRUTH = torch.tensor([[1.0, -2.0, 0.5]])


def toy(directory: Path, *, before: Callable[[int], None] = lambda step: None, every_s: float = 0.0) -> LoopJob:
    """Fit a line through noise, with dropout: its weights depend on every random number."""
    model = build_seeded(CONFIG.seed, lambda: nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.2), nn.Linear(3, 1)))
    calls = {"n": 0}

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        before(calls["n"])
        calls["n"] += 1
        inputs = torch.randn(16, 3, generator=generator)
        return inputs, inputs @ TRUTH.T

    def losses(data: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        error = model(data[0]) - data[1]
        return {"loss": (error**2).mean(), "largest": error.abs().max().detach()}

    def validate() -> dict[str, float]:
        return {"loss": float(losses(batch_of_validation())["loss"])}

    def batch_of_validation() -> tuple[Tensor, Tensor]:
        inputs = torch.randn(64, 3, generator=step_generator(0, 0, "valid"))
        return inputs, inputs @ TRUTH.T

    return LoopJob(directory, CONFIG, model, batch, losses, validate, checkpoint_every_s=every_s)


def numbers(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "steps_per_s"} for line in lines]


def same_weights(one: LoopJob, other: LoopJob) -> bool:
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoopJob, list[dict[str, Any]]]:
    job = toy(tmp_path_factory.mktemp("whole"))
    return job, train_loop(job)


def test_it_learns_and_logs(whole: tuple[LoopJob, list[dict[str, Any]]]) -> None:
    job, lines = whole
    assert [(line["step"], line["split"]) for line in lines] == [
        *[(5, "train"), (10, "train"), (10, "valid"), (15, "train"), (20, "train"), (20, "valid")],
        *[(25, "train"), (30, "train"), (30, "valid")],
    ]
    assert lines[-1]["loss"] < 0.7 * lines[2]["loss"]
    assert lines[0]["lr"] > lines[-2]["lr"] > 0
    assert not job.model.training
    assert artifacts_of(job.directory)[0] == "metrics.jsonl"
    assert len(artifacts_of(job.directory)) == 2


@pytest.mark.parametrize("stop_at", [1, 7, 20])
def test_a_stopped_run_goes_on(whole: tuple[LoopJob, list[dict[str, Any]]], tmp_path: Path, stop_at: int) -> None:
    def stop(call: int) -> None:
        if call == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingStopped, match=f"Stopped after step {stop_at + 1} of 30") as stopped:
        train_loop(toy(tmp_path, before=stop, every_s=1e9))
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    job = toy(tmp_path)
    assert numbers(train_loop(job)) == numbers(whole[1])
    assert same_weights(job, whole[0])


class Killed(Exception):
    pass


def test_a_killed_run_with_a_damaged_checkpoint_goes_on(
    whole: tuple[LoopJob, list[dict[str, Any]]], tmp_path: Path
) -> None:
    def kill(call: int) -> None:
        if call == 17:
            raise Killed

    with pytest.raises(Killed):
        train_loop(toy(tmp_path, before=kill))
    saved = sorted((tmp_path / "checkpoints").iterdir())
    assert [path.name for path in saved] == ["step-00000016", "step-00000017"]
    (saved[-1] / "model.pt").write_bytes(b"half")
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.write('{"step": 25, "split": "tra')
    job = toy(tmp_path)
    assert numbers(train_loop(job)) == numbers(whole[1])
    assert same_weights(job, whole[0])


def test_the_best_weights_are_kept(tmp_path: Path) -> None:
    job = toy(tmp_path)
    losses = iter([3.0, 1.0, 2.0])
    seen: list[Tensor] = []

    def validate() -> dict[str, float]:
        seen.append(job.model[0].weight.detach().clone())  # type: ignore[index]
        return {"loss": next(losses)}

    object.__setattr__(job, "validate", validate)
    train_loop(job)
    assert torch.equal(job.model[0].weight, seen[1])  # type: ignore[index]


def test_a_loss_that_is_not_a_number_ends_the_run(tmp_path: Path) -> None:
    job = toy(tmp_path)
    object.__setattr__(job, "losses", lambda data: {"loss": job.model(data[0]).mean() * float("nan")})
    with pytest.raises(LstError, match="not a number in step 1"):
        train_loop(job)


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a device")
    job = toy(tmp_path)
    object.__setattr__(job, "device", "cuda")
    with pytest.raises(LstError, match="no device cuda"):
        train_loop(job)
