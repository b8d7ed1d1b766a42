"""Training runs: they learn, they stop and resume bit for bit, and what goes wrong is said clearly."""

import errno
import json
import logging
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from lst.data.loader import vocabulary_of
from lst.data.mixture import MixtureConfig
from lst.errors import LstError
from lst.manifest import Manifest
from lst.model.init import build_model
from lst.model.lst import LST
from lst.train.config import BatchConfig, BudgetConfig, CheckpointConfig, OptimizerConfig, TrainerConfig
from lst.train.control import TrainingStopped
from lst.train.engine import TrainingJob, TrainingResult, train
from lst.train.inputs import DataSpec
from lst.train.metrics import COUNTS, TALLY
from lst.train.plan import flops_counter
from lst.train.saving import INDEX, save_state
from tests.train.toys import toy_model

STEPS = 24


def trainer_config(**changes: Any) -> TrainerConfig:
    settings: dict[str, Any] = {
        "batch": BatchConfig(sequence_units=64, rows=4),
        "budget": BudgetConfig(amount=STEPS),
        "optimizer": OptimizerConfig(lr=1e-2, warmup_steps=4),
        "log_every": 2,
        "validate_every": 8,
        "valid_rows": 4,
        "checkpoint": CheckpointConfig(every_steps=6, every_seconds=None),
    }
    return TrainerConfig(**settings | changes)


def job(
    data: tuple[Manifest, Manifest],
    directory: Path,
    config: TrainerConfig | None = None,
    *,
    mode: str = "curriculum",
    **changes: Any,
) -> TrainingJob:
    config = config or trainer_config()
    pairs, text = data
    vocabulary = vocabulary_of(pairs)
    model = toy_model(vocabulary.text_size, mode)
    spec = DataSpec(pairs, text, config, model.patching, MixtureConfig(), vocabulary)
    count_flops = flops_counter(model)
    settings: dict[str, Any] = {
        "build_model": lambda: build_model(model, seed=config.seed),
        "open_stream": spec.open(count_flops),
        "open_valid": lambda rank, world: spec.valid(rank, world, ("speech", "text")),
        "count_flops": count_flops,
    }
    return TrainingJob(directory, config, **settings | changes)


def metrics(directory: Path) -> list[dict[str, Any]]:
    """The lines of a run, without what depends on the clock."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in lines:
        for key in ("seconds", "units_per_s", "text_tokens_per_s", "grad_norm", "peak_memory_mb"):
            line.pop(key, None)
    return lines


def assert_same(first: LST, second: LST) -> None:
    for (name, one), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def interrupt_at(step: int, action: Callable[[], None]) -> Callable[[int, int, str], None]:
    """A progress callback that acts once, when `step` steps are done."""
    done = False

    def report(steps: int, total: int, unit: str) -> None:
        nonlocal done
        if steps == step and not done:
            done = True
            action()

    return report


class Undisturbed:
    """A run from beginning to end, which the others are compared with."""

    def __init__(self, data: tuple[Manifest, Manifest], directory: Path) -> None:
        self.directory = directory
        self.reports: list[tuple[int, int, str]] = []
        os.environ["TOY_API_TOKEN"] = "sesame-open-1234"
        os.environ["HARMLESS_LOOKING"] = "swordfish-5678"
        self.handlers = logging.getLogger().handlers[:]
        self.environment = dict(os.environ)
        self.random = torch.get_rng_state()
        try:
            self.result: TrainingResult = train(
                job(data, directory, progress=lambda *report: self.reports.append(report))
            )
        finally:
            self.after = dict(os.environ)
            self.random_after = torch.get_rng_state()
            del os.environ["TOY_API_TOKEN"], os.environ["HARMLESS_LOOKING"]


@pytest.fixture(scope="module")
def undisturbed(data: tuple[Manifest, Manifest], tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    torch.set_num_threads(1)
    return Undisturbed(data, tmp_path_factory.mktemp("undisturbed"))


def test_the_loss_goes_down_and_is_recorded(undisturbed: Undisturbed) -> None:
    lines = metrics(undisturbed.directory)
    trained = [line for line in lines if line["split"] == "train"]
    assert [line["step"] for line in trained] == list(range(2, STEPS + 1, 2))
    assert trained[-1]["loss"] < trained[0]["loss"] - 1.0
    assert trained[0]["lr"] == pytest.approx(1e-2 * 2 / 4, rel=0.02)  # the rate of step 2 of 4 warm-up steps
    assert trained[-1]["lr"] < 0.03 * 1e-2
    for line in trained:
        assert set(line) >= {"bits", "patch_length", "speech_share", "packing", "total"}
    valid = [line for line in lines if line["split"] == "valid"]
    assert [line["step"] for line in valid] == [8, 16, 24]
    assert set(valid[-1]["sets"]) == {"speech", "text"}
    assert valid[-1]["speech_bits_per_second"] < valid[0]["speech_bits_per_second"]
    totals = undisturbed.result.totals
    assert totals["flops"] > 0
    assert totals["targets"] >= totals["speech_targets"] + totals["text_targets"] > 0.8 * totals["targets"]
    assert undisturbed.reports[0] == (0, STEPS, "steps")
    assert undisturbed.reports[-1][:2] == (STEPS, STEPS)
    assert list((undisturbed.directory / "tensorboard").glob("events*"))


def test_a_line_says_how_fast_and_how_well(
    data: tuple[Manifest, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rates are those of what was read since the line before; MFU only where the device's peak is known."""
    config = trainer_config(budget=BudgetConfig(amount=4), validate_every=None)
    for peak in (None, 1e12):
        monkeypatch.setattr("lst.train.metrics._peak_flops", lambda device, peak=peak: peak)
        train(job(data, tmp_path / str(peak), config))
        text = (tmp_path / str(peak) / "metrics.jsonl").read_text(encoding="utf-8")
        first, second = (line for line in map(json.loads, text.splitlines()) if line["split"] == "train")
        added = {name: second["total"][name] - first["total"][name] for name in first["total"]}
        assert second["units_per_s"] * second["seconds"] == pytest.approx(added["units"])
        assert second["text_tokens_per_s"] * second["seconds"] == pytest.approx(added["text_tokens"])
        assert second["speech_share"] == pytest.approx(added["units"] / (added["units"] + added["text_tokens"]))
        nats = added["speech_loss"] / added["speech_targets"]
        assert second["speech_bits_per_second"] == pytest.approx(25 * nats / math.log(2))
        nats = added["text_loss"] / added["text_targets"]
        assert second["text_bits_per_token"] == pytest.approx(nats / math.log(2))
        if peak is None:
            assert "mfu" not in second
        else:
            assert second["mfu"] * second["seconds"] * peak == pytest.approx(added["flops"])


def test_the_mixture_is_that_of_the_configuration(undisturbed: Undisturbed) -> None:
    state = torch.load(undisturbed.directory / "checkpoints/step-00000024/data.pt", weights_only=True)
    read = state["stream"]["rows"]["mixture"]["read"]
    original = {name: tally["units"] + tally["text_tokens"] for name, tally in read.items()}
    assert original["text"] == pytest.approx(2 * original["speech"], rel=0.1)
    totals = undisturbed.result.totals
    assert sum(original.values()) == totals["units"] + totals["text_tokens"]


def test_the_first_step_already_learns(undisturbed: Undisturbed, data: tuple[Manifest, Manifest]) -> None:
    fresh = build_model(toy_model(vocabulary_of(data[0]).text_size, "curriculum"), seed=0)
    first = torch.load(undisturbed.directory / "checkpoints/step-00000024/optimizer-0.pt", weights_only=True)
    assert first["groups"][1]["weight_decay"] == 0.0
    moved = [not torch.equal(a, b) for a, b in zip(fresh.parameters(), undisturbed.result.model.parameters())]
    assert all(moved)


def test_no_secret_reaches_the_log_and_the_process_is_left_as_it_was(undisturbed: Undisturbed) -> None:
    for path in undisturbed.directory.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"sesame-open-1234" not in content, path
            assert b"swordfish-5678" not in content, path
    log = (undisturbed.directory / "train.log").read_text(encoding="utf-8")
    assert "Environment: " in log
    assert "Checkpoint of step 24 saved." in log
    left = {name for name in set(undisturbed.after) - set(undisturbed.environment) if not name.startswith("KMP_")}
    assert not left  # KMP_*: set by an import
    assert logging.getLogger().handlers == undisturbed.handlers
    assert torch.equal(undisturbed.random_after, undisturbed.random)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGUSR1, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_ends_with_the_same_weights(
    number: signal.Signals, data: tuple[Manifest, Manifest], undisturbed: Undisturbed, run_directory: Path
) -> None:
    stop = interrupt_at(11, lambda: os.kill(os.getpid(), number))
    with pytest.raises(TrainingStopped, match=r"Stopped after step 1[12] of 24; the run is saved") as caught:
        train(job(data, run_directory, progress=stop))
    assert caught.value.exit_code == 128 + number
    result = train(job(data, run_directory))
    assert result.totals == undisturbed.result.totals
    assert_same(result.model, undisturbed.result.model)
    assert metrics(run_directory) == metrics(undisturbed.directory)


class Killed(Exception):
    """Ends a run without a word, as kill -9 does."""


def killed(data: tuple[Manifest, Manifest], directory: Path, step: int, **changes: Any) -> None:
    def die() -> None:
        raise Killed

    with pytest.raises(Killed):
        train(job(data, directory, progress=interrupt_at(step, die), **changes))


def test_a_killed_run_loses_what_came_after_the_last_checkpoint_only(
    data: tuple[Manifest, Manifest], undisturbed: Undisturbed, run_directory: Path
) -> None:
    killed(data, run_directory, 17)
    steps: list[int] = []
    result = train(job(data, run_directory, progress=lambda done, total, unit: steps.append(done)))
    assert steps[0] == 12
    assert_same(result.model, undisturbed.result.model)
    assert metrics(run_directory) == metrics(undisturbed.directory)


@contextmanager
def changed_state(checkpoint: Path) -> Iterator[dict[str, Any]]:
    """The trainer's state of a checkpoint, to be changed; the checkpoint is intact afterwards."""
    state = torch.load(checkpoint / "trainer-0.pt", weights_only=True)
    yield state
    index = json.loads((checkpoint / INDEX).read_text(encoding="utf-8"))
    index["files"]["trainer-0.pt"] = save_state(checkpoint / "trainer-0.pt", state)
    (checkpoint / INDEX).write_text(json.dumps(index), encoding="utf-8")


def test_a_run_goes_on_on_another_device(
    data: tuple[Manifest, Manifest], undisturbed: Undisturbed, run_directory: Path
) -> None:
    killed(data, run_directory, 17)
    with changed_state(run_directory / "checkpoints/step-00000012") as state:
        state["_rng_bag"]["generators"].append(torch.zeros(16, dtype=torch.uint8))  # as on a GPU
    steps: list[int] = []
    result = train(job(data, run_directory, progress=lambda done, total, unit: steps.append(done)))
    assert steps[0] == 12
    assert_same(result.model, undisturbed.result.model)


def test_a_run_of_an_older_version_that_counted_less_goes_on(
    data: tuple[Manifest, Manifest], undisturbed: Undisturbed, run_directory: Path
) -> None:
    killed(data, run_directory, 17)
    with changed_state(run_directory / "checkpoints/step-00000012") as state:
        state["_metric_bag"][TALLY]["values"] = state["_metric_bag"][TALLY]["values"][: COUNTS.index("ended_loss")]
    lines = [json.loads(line) for line in (run_directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line["total"] = {key: value for key, value in line.get("total", {}).items() if "ended" not in key}
    (run_directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    result = train(job(data, run_directory))
    assert_same(result.model, undisturbed.result.model)
    assert result.totals == undisturbed.result.totals


def test_a_damaged_newest_checkpoint_is_passed_over(
    data: tuple[Manifest, Manifest], undisturbed: Undisturbed, run_directory: Path
) -> None:
    killed(data, run_directory, 17)
    newest = run_directory / "checkpoints/step-00000012"
    weights = bytearray((newest / "model-0.pt").read_bytes())
    weights[len(weights) // 2] ^= 1
    (newest / "model-0.pt").write_bytes(bytes(weights))
    steps: list[int] = []
    result = train(job(data, run_directory, progress=lambda done, total, unit: steps.append(done)))
    assert steps[0] == 6
    assert "is damaged (model-0.pt is not what was written)" in (run_directory / "train.log").read_text(
        encoding="utf-8"
    )
    assert_same(result.model, undisturbed.result.model)


def test_a_full_disk_keeps_the_older_checkpoint(
    data: tuple[Manifest, Manifest], run_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lst.train import saving

    written = 0
    write = saving._HashingFile.write

    def fill(self: Any, block: bytes) -> int:
        nonlocal written
        written += len(block)
        if "step-00000012" in str(self.path) and written > 0:
            self.error = OSError(errno.ENOSPC, "No space left on device")
            raise self.error
        return write(self, block)

    monkeypatch.setattr(saving._HashingFile, "write", fill)
    with pytest.raises(LstError, match="No space left on the device while saving the checkpoint of step 12"):
        train(job(data, run_directory))
    assert [path.name for path in (run_directory / "checkpoints").iterdir()] == ["step-00000006"]
    monkeypatch.undo()
    steps: list[int] = []
    train(job(data, run_directory, progress=lambda done, total, unit: steps.append(done)))
    assert steps[0] == 6


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_rows(
    data: tuple[Manifest, Manifest], run_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    loss_of = LST.loss_of

    def broken(self: LST, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        out = loss_of(self, *arguments)
        return out if calls < 9 else type(out)(**vars(out) | {"loss": out.loss * float("nan")})

    monkeypatch.setattr(LST, "loss_of", broken)
    with pytest.raises(LstError, match=r"The loss of step 9 is nan; the ids of the batch's rows are in .*json"):
        train(job(data, run_directory, trainer_config(validate_every=None)))
    saved = json.loads((run_directory / "bad-batch-step-9-0.json").read_text(encoding="utf-8"))
    assert saved["rows"]
    assert saved["rows"][0][0].split("/")[0] in ("toy", "text")
    assert (run_directory / "checkpoints/step-00000006/checkpoint.json").is_file()


@pytest.mark.parametrize("kind", ["flops", pytest.param("data", marks=pytest.mark.slow)])
def test_budgets_that_are_measured(kind: str, data: tuple[Manifest, Manifest], run_directory: Path) -> None:
    amount = {"flops": 2.5e8, "data": 3000.0}[kind]
    config = trainer_config(budget=BudgetConfig(kind=kind, amount=amount), validate_every=None)
    reports: list[tuple[int, int, str]] = []
    stop = interrupt_at(0, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(TrainingStopped):
        train(job(data, run_directory, config, progress=stop))
    result = train(job(data, run_directory, config, progress=lambda *report: reports.append(report)))
    used = {"flops": result.totals["flops"], "data": result.totals["units"] + result.totals["text_tokens"]}[kind]
    assert amount <= used < 1.3 * amount
    assert reports[-1] == (1000, 1000, "‰ of the budget")
    assert metrics(run_directory)[-1]["step"] == result.steps


def test_the_best_weights_are_kept_if_asked(data: tuple[Manifest, Manifest], run_directory: Path) -> None:
    # With so high a rate the last validation is not the best.
    config = trainer_config(
        optimizer=OptimizerConfig(lr=0.5, warmup_steps=8, final_lr=1.0), budget=BudgetConfig(amount=16)
    )
    result = train(job(data, run_directory, config, keep_best=True))
    lines = [line for line in metrics(run_directory) if line["split"] == "valid"]
    best = min(lines, key=lambda line: line["loss"])
    assert result.valid["step"] == best["step"]
    assert result.valid["loss"] == best["loss"]


def test_other_data_cannot_continue_a_run(data: tuple[Manifest, Manifest], run_directory: Path) -> None:
    killed(data, run_directory, 7)
    with pytest.raises(LstError, match="belongs to other data"):
        train(job(data, run_directory, trainer_config(seed=5)))


@pytest.mark.slow
def test_accumulation_and_activation_checkpointing_change_nothing_but_rounding(
    data: tuple[Manifest, Manifest], undisturbed: Undisturbed, run_directory: Path
) -> None:
    config = trainer_config(batch=BatchConfig(sequence_units=64, rows=4, accumulate=2), activation_checkpointing=True)
    result = train(job(data, run_directory, config))
    assert result.train["loss"] == pytest.approx(undisturbed.result.train["loss"], rel=1e-3)
    assert [name for name, _ in result.model.named_parameters()] == [
        name for name, _ in undisturbed.result.model.named_parameters()
    ]


def test_rows_must_divide(data: tuple[Manifest, Manifest], run_directory: Path) -> None:
    config = trainer_config(batch=BatchConfig(sequence_units=64, rows=4)).model_copy(
        update={"batch": BatchConfig(sequence_units=64, rows=4).model_copy(update={"accumulate": 3})}
    )
    with pytest.raises(LstError, match="does not divide into 1 processes"):
        train(job(data, run_directory, config))


@pytest.mark.slow
def test_compiled_blocks_train_the_same(
    data: tuple[Manifest, Manifest], undisturbed: Undisturbed, run_directory: Path
) -> None:
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    result = train(job(data, run_directory, trainer_config(compile=True)))
    assert result.train["loss"] == pytest.approx(undisturbed.result.train["loss"], rel=1e-3)


@pytest.mark.slow
def test_bfloat16_trains(data: tuple[Manifest, Manifest], undisturbed: Undisturbed, run_directory: Path) -> None:
    config = trainer_config(dtype="bfloat16", budget=BudgetConfig(amount=8), validate_every=None)
    result = train(job(data, run_directory, config))
    assert result.train["loss"] < result.first["loss"]
    assert all(value.dtype == torch.float32 for value in result.model.parameters())
