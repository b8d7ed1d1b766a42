"""Command lines in processes of their own: killed at a chosen moment, or on a disk that is too small.

The processes are forked from one server that has imported what is heavy and computed nothing: each costs only its own
work. A moment is a number: how many times the process has opened, renamed, made or removed something below a
directory (Python's audit events; nothing of the product is replaced).
"""

import ctypes
import multiprocessing
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from lst.cli.main import GROUPS
from lst.manifest import load_manifest
from lst.manifest.manifest import to_json

_PRELOAD = [
    "soundfile",
    "fairseq2",
    "lst.align.pocketsphinx",
    "lst.cli.main",
    *(f"lst.cli.{group}" for group in GROUPS),
    "lst.data.stage",
    "lst.evaluate.stage",
    "lst.generate.samples",
    "lst.pipeline.run",
    "lst.report.page",
    "lst.text.train",
    "lst.train.stage",
    "lst.units.stage",
    "lst.vocoder.stage",
    "torchaudio",
]
_context = multiprocessing.get_context("forkserver")
_EVENTS = frozenset(["open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"])
_NO_DISK = 77
_CLONE_NEWNS, _CLONE_NEWUSER, _MS_REC, _MS_PRIVATE, _MS_REMOUNT = 0x20000, 0x10000000, 0x4000, 0x40000, 0x20

Arguments = Sequence[str | Path]

PLACES = ("created", "digest", "inputs", "location", "tool")
DIARY = ("metrics.jsonl", "train.log", "tensorboard")
"""What a training writes down about its hours and minutes: differs from run to run."""


def lst(
    arguments: Arguments,
    below: Path,
    *,
    kill_at: int | None = None,
    by: signal.Signals = signal.SIGKILL,
    largest_file: int | None = None,
    said: Path | None = None,
) -> tuple[int, int]:
    """Run `lst ARGUMENTS`; returns (exit code, operations below `below`). Killed at operation `kill_at`, it is -9.
    `by`: another signal than SIGKILL.

    `largest_file`: bytes that a file may have (RLIMIT_FSIZE). `said`: a file for what the command prints.
    """
    count = _context.Value("i", 0)
    return _fork(_run, _words(arguments), str(below), kill_at, by, largest_file, count, said), count.value


def lst_on_a_small_disk(arguments: Arguments, disk: Path, kilobytes: int, kept: Path, said: Path) -> int:
    """Run `lst ARGUMENTS` with a file system of `kilobytes` mounted at `disk`; returns its exit code.

    Then the file system grows, the same command is run again and must end well; what lies at `disk/out` is copied to
    `kept`. The mount is the process's own. Skips the test where mounting is not allowed.
    """
    code = _fork(_run_on_a_small_disk, _words(arguments), disk, kilobytes, kept, said)
    if code == _NO_DISK:
        pytest.skip("a file system cannot be mounted here")
    return code


def contents(output: Path) -> dict[str, object]:
    """What must be the same: the bytes of every file, and the manifest but for dates and places."""
    if output.is_file():
        return {"": output.read_bytes()}
    same: dict[str, object] = {
        path.relative_to(output).as_posix(): path.read_bytes()
        for path in output.rglob("*")
        if path.is_file() and not {*DIARY, "manifest.json"} & {path.name, path.parent.name}
    }
    body = to_json(load_manifest(output))
    body["artifacts"] = {name: entry for name, entry in body["artifacts"].items() if name.split("/")[0] not in DIARY}
    body["totals"].pop("seconds", None)
    return {**same, "manifest": {key: body[key] for key in body if key not in PLACES}}


def _words(arguments: Arguments) -> list[str]:
    return [str(argument) for argument in arguments]


def _fork(target: Callable[..., None], *arguments: Any) -> int:
    _context.set_forkserver_preload(_PRELOAD)
    process = _context.Process(target=target, args=arguments)
    process.start()
    process.join(500)
    assert process.exitcode is not None, f"{arguments} did not end"
    return process.exitcode


def _command(arguments: list[str], said: Path | None) -> int:
    from lst.cli.main import run

    with open(said or os.devnull, "a", encoding="utf-8") as sink, redirect_stdout(sink), redirect_stderr(sink):
        return run(arguments)


def _run(
    arguments: list[str],
    below: str,
    kill_at: int | None,
    by: signal.Signals,
    largest_file: int | None,
    count: Any,
    said: Path | None,
) -> None:
    # What a shell runs in the background ignores Ctrl-C, and so do its children: the tests may be run that way.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    sys.addaudithook(_hook(below, kill_at, by, count))
    os._exit(_command(arguments, said))


def _hook(below: str, kill_at: int | None, by: signal.Signals, count: Any) -> Callable[[str, tuple[Any, ...]], None]:
    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _EVENTS and isinstance(arguments[0], str | bytes) and os.fsdecode(arguments[0]).startswith(below):
            count.value += 1
            if count.value == kill_at:
                os.kill(os.getpid(), by)

    return hook


def _run_on_a_small_disk(arguments: list[str], disk: Path, kilobytes: int, kept: Path, said: Path) -> None:
    libc = ctypes.CDLL(None)
    place = os.fsencode(disk)
    user = 0 if os.getuid() == 0 else _CLONE_NEWUSER
    if (
        libc.unshare(_CLONE_NEWNS | user)
        or libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
        or libc.mount(b"tmpfs", place, b"tmpfs", 0, f"size={kilobytes}k".encode())
    ):
        os._exit(_NO_DISK)
    code = _command(arguments, said)
    assert not (disk / "out").exists()
    assert libc.mount(b"tmpfs", place, b"tmpfs", _MS_REMOUNT, b"size=512m") == 0
    assert _command(arguments, said) == 0, said.read_text()
    shutil.copytree(disk / "out", kept)
    os._exit(code)
