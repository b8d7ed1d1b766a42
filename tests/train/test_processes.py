"""Runs in processes of their own: killed for real, stopped at the command line, and several of them together."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lst.manifest import Manifest, load_manifest
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


@pytest.fixture(scope="module")
def config(data: tuple[Manifest, Manifest], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("config") / "pretrain.yaml"
    body = SETTINGS | {"pairs": str(data[0].path), "text": str(data[1].path)}
    file.write_text(yaml.safe_dump(body), encoding="utf-8")
    return file


def command(config: Path, out: Path, *more: str) -> list[str]:
    return ["pretrain", "--config", str(config), "--out", str(out), *more]


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 300
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
        out, err = process.communicate(timeout=1500)
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


def test_two_processes_learn_what_one_does(config: Path, undisturbed: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "model"
    code, _, err = finish(together(config, out, 2))
    assert code == 0, err
    both = load_manifest(out)
    for name in ("units", "text_tokens", "global_units", "flops", "steps"):
        assert both.totals[name] == pytest.approx(undisturbed.totals[name], rel=1e-12), name
    assert losses(both) == pytest.approx(losses(undisturbed), rel=2e-3)


def test_two_processes_stop_together_and_one_goes_on(config: Path, undisturbed: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "model"
    process = together(config, out, 2)
    wait_until(lambda: len(checkpoints(out)) > 1, process)
    workers = [int(pid) for pid in _children(process.pid)]
    os.kill(workers[-1], signal.SIGUSR1)  # one of the two
    finish(process)
    assert not out.exists()
    assert 0 < newest(out) < 36
    code, _, err = finish(start(*command(config, out)))
    assert code == 0, err
    alone = load_manifest(out)
    # No row twice, none lost: the same data went through both runs.
    for name in ("units", "text_tokens", "global_units", "steps"):
        assert alone.totals[name] == undisturbed.totals[name], name
    assert losses(alone) == pytest.approx(losses(undisturbed), rel=2e-3)


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
