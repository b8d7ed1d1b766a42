"""Runs in processes of their own: killed for real, stopped at the command line, and several of them together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lst.manifest import Manifest, load_manifest
from lst.model.checkpoint import load_model
from lst.train.options import load_pretrain_options, plan_of
from tests.train.test_stages import TINY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

MAIN = "import sys; import lst.cli.main as main; main.GROUPS = ('train',); sys.exit(main.run(sys.argv[1:]))"
"""The command line with the commands of training only: it starts sooner."""

SETTINGS: dict[str, Any] = TINY | {
    "patching": {"mode": "curriculum"},
    "budget": {"amount": 36},
    "log_every": 2,
    "validate_every": 12,
    "checkpoint": {"every_steps": 6, "every_seconds": None},
}

PATIENCE = 1500
"""Seconds until a process is taken to hang: two that train share a busy machine with all else that runs there."""


@pytest.fixture(scope="module")
def config(data: tuple[Manifest, Manifest], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("config") / "pretrain.yaml"
    body = SETTINGS | {"pairs": str(data[0].path), "text": str(data[1].path)}
    file.write_text(yaml.safe_dump(body), encoding="utf-8")
    return file


def command(config: Path, out: Path, *more: str) -> list[str]:
    return ["pretrain", "--config", str(config), "--out", str(out), *more]


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


def partial(out: Path) -> Path:
    found = list(out.parent.glob(f"{out.name}.partial-*"))
    return found[0] if found else out.parent / "nothing"


def checkpoints(out: Path) -> list[str]:
    found = partial(out).glob("checkpoints/step-*/checkpoint.json")
    return sorted(path.parent.name for path in found if not path.parent.suffix)


def newest(out: Path) -> int:
    """Step of the newest checkpoint, 0 if there is none."""
    return max([0, *(int(name[5:]) for name in checkpoints(out))])


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    return process.returncode, out, err


@pytest.fixture(scope="module")
def undisturbed(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    out = tmp_path_factory.mktemp("undisturbed") / "model"
    code, _, err = finish(start(*command(config, out)))
    assert code == 0, err
    return load_manifest(out)


def test_kill_9_and_then_again(config: Path, undisturbed: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "model"
    for count in (1, 3):
        process = start(*command(config, out))
        wait_until(lambda wanted=6 * count: newest(out) >= wanted, process)  # type: ignore[misc]
        process.kill()
        assert finish(process)[0] == -signal.SIGKILL
        assert not out.exists()
    code, _, err = finish(start(*command(config, out)))
    assert code == 0, err
    again = load_manifest(out)
    assert again.fingerprints["model"] == undisturbed.fingerprints["model"]
    assert {**again.totals} == {**undisturbed.totals}


def test_sigterm_saves_and_says_so(config: Path, undisturbed: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "model"
    process = start(*command(config, out))
    wait_until(lambda: len(checkpoints(out)) > 0, process)
    process.send_signal(signal.SIGTERM)
    code, printed, err = finish(process)
    assert code == 143, err
    assert printed == ""
    assert "the run is saved. Run the same command again to continue." in err.splitlines()[-1]
    assert "Traceback" not in err
    code, _, err = finish(start(*command(config, out)))
    assert code == 0, err
    assert load_manifest(out).fingerprints["model"] == undisturbed.fingerprints["model"]


def test_processes_started_one_by_one_as_slurm_does(config: Path, undisturbed: Manifest, tmp_path: Path) -> None:
    """The environment of docs/scaling.md's srun line; Slurm's own variables say nothing to the contrary by accident."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0"}
    out = tmp_path / "model"
    ran = [start(*command(config, out), **shared, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(2)]
    for process in ran:
        code, _, err = finish(process)
        assert code == 0, err
    both = load_manifest(out)
    for name in SEEN:
        assert both.totals[name] == undisturbed.totals[name], name


def together(config: Path, out: Path, processes: int, *changes: str) -> subprocess.Popen[str]:
    script = out.parent / "lst_main.py"
    script.write_text(MAIN, encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.Popen(
        [*launcher, str(script), *command(config, out, *changes)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def losses(manifest: Manifest) -> list[float]:
    lines = [json.loads(line) for line in manifest.file("metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line["loss"] for line in lines]


SEEN = ("units", "text_tokens", "global_units", "speech_patches", "steps")
"""Totals that tell whether the same rows went through two runs: no row twice, none lost."""


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_learn_what_one_does(parallel: str, config: Path, undisturbed: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "model"
    code, _, err = finish(together(config, out, 2, f"parallel={parallel}"))
    assert code == 0, err
    both = load_manifest(out)
    assert both.id == undisturbed.id  # how processes share the work is not part of what is made
    for name in (*SEEN, "flops"):
        assert both.totals[name] == pytest.approx(undisturbed.totals[name], rel=1e-12), name
    assert losses(both) == pytest.approx(losses(undisturbed), rel=2e-3)
    weights, expected = (load_model(manifest.path).model.state_dict() for manifest in (both, undisturbed))
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, atol=0.02, rtol=0.02, msg=name)


@pytest.mark.parametrize(
    ("first", "then"),
    [("2 ddp", "1 ddp"), ("1 ddp", "2 ddp"), ("2 fsdp", "1 ddp"), ("1 ddp", "2 fsdp"), ("2 fsdp", "2 ddp")],
)
def test_a_run_goes_on_with_another_number_of_processes(
    first: str, then: str, config: Path, undisturbed: Manifest, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    process = launch(config, out, first)
    wait_until(lambda: len(checkpoints(out)) > 1, process)
    # One of two is told to stop; both do.
    os.kill(int(_children(process.pid)[-1]) if first[0] == "2" else process.pid, signal.SIGUSR1)
    finish(process)
    assert not out.exists()
    stopped = newest(out)
    assert 0 < stopped < 36
    code, _, err = finish(launch(config, out, then))
    assert code == 0, err
    resumed = load_manifest(out)
    for name in SEEN:
        assert resumed.totals[name] == undisturbed.totals[name], name
    assert losses(resumed) == pytest.approx(losses(undisturbed), rel=2e-3)
    assert f"Resuming from step {stopped}." in resumed.file("train.log").read_text(encoding="utf-8")


def launch(config: Path, out: Path, how: str) -> subprocess.Popen[str]:
    processes, parallel = how.split()
    if processes == "1":
        return start(*command(config, out, f"parallel={parallel}"))
    return together(config, out, int(processes), f"parallel={parallel}")


def test_one_dead_process_of_two(config: Path, undisturbed: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "model"
    process = together(config, out, 2)
    wait_until(lambda: len(checkpoints(out)) > 1, process)
    os.kill(int(_children(process.pid)[-1]), signal.SIGKILL)
    code, _, err = finish(process)
    assert code != 0
    assert "lst: Another process of this run has died or cannot be reached" in err
    assert "Run the same command again to continue." in err
    assert not out.exists()
    code, _, err = finish(together(config, out, 2))
    assert code == 0, err
    for name in SEEN:
        assert load_manifest(out).totals[name] == undisturbed.totals[name], name


def test_the_peak_of_a_step_is_what_the_plan_says(data: tuple[Manifest, Manifest], tmp_path: Path) -> None:
    """In a process of its own: the resident set of one that has trained before grows less."""
    settings = {
        "pairs": str(data[0].path),
        "text": str(data[1].path),
        "model": {"preset": "nano"},
        "batch": {"sequence_units": 512, "rows": 8},
        "budget": {"amount": 3},
        "log_every": 1,
        "valid_rows": 1,
        "checkpoint": {"every_steps": 100, "every_seconds": None},
    }
    config = tmp_path / "nano.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    code, _, err = finish(start(*command(config, tmp_path / "model")))
    assert code == 0, err
    lines = load_manifest(tmp_path / "model").file("metrics.jsonl").read_text(encoding="utf-8").splitlines()
    peak = max(json.loads(line).get("peak_memory_mb", 0) for line in lines)
    assert plan_of(load_pretrain_options(config, []))["memory_mb"] == pytest.approx(peak, rel=0.2)


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
