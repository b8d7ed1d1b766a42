"""Several stages of a recipe at once, each in a process of its own: for many small models on one large machine."""

import os
import pickle
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from lst.errors import LstError
from lst.manifest import Manifest
from lst.train.control import RunControl, TrainingStopped, stop_signals

TRAINERS = {"lst.train.stage", "lst.train.finetune"}
"""Stages that train: what they import when they begin takes seconds."""


@dataclass(frozen=True)
class Done:
    """What a stage's process sends back: its manifest, or why there is none; its largest resident set in MiB."""

    manifest: Manifest | None
    error: LstError | None
    peak_mb: int


@dataclass
class _Running:
    name: str
    process: BaseProcess
    connection: Connection
    since: float


class Jobs:
    """Runs functions in processes, at most `count` at a time; `finished` yields (name, result, seconds) as they end.

    A stop signal is passed on to all of them: what trains is saved. Threads of each: its share of the cores.
    """

    def __init__(self, count: int, modules: Iterable[str] = ()) -> None:
        """`modules`: of the stages; imported once, by the process that the others are forked from."""
        self.count = count
        self.control = RunControl()
        self._running: list[_Running] = []
        self._context = get_context("forkserver")
        wanted = sorted(set(modules))
        training = ["lst.train.recipe"] if TRAINERS & set(wanted) else []
        self._context.set_forkserver_preload(["soundfile", *wanted, *training])  # soundfile before fairseq2

    @property
    def free(self) -> bool:
        """Whether another one can be started."""
        return len(self._running) < self.count and self.control.signal_number is None

    @property
    def busy(self) -> bool:
        """Whether any is running."""
        return bool(self._running)

    def start(self, name: str, make: Callable[..., Manifest], *arguments: Any) -> None:
        """Call `make(*arguments)` in a process of its own. All of it must survive pickling."""
        reader, writer = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_work, args=(writer, make, arguments), name=name)
        with _threads(max(1, (os.cpu_count() or 1) // self.count)):
            process.start()
        writer.close()
        self._running.append(_Running(name, process, reader, time.monotonic()))

    def finished(self) -> Iterator[tuple[str, Done, float]]:
        """Those that have ended; waits for the first."""
        told = False
        while self._running:
            ended = wait([job.connection for job in self._running], timeout=0.2)
            if self.control.signal_number is not None and not told:
                told = True
                for job in self._running:
                    os.kill(job.process.pid or 0, signal.SIGTERM)
            done = [job for job in self._running if job.connection in ended]
            for job in done:
                self._running.remove(job)
                yield job.name, _result(job), time.monotonic() - job.since
            if done:
                return

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """While inside, a stop signal ends the stages' processes in order; then `TrainingStopped` is raised."""
        try:
            with stop_signals(self.control):
                yield
        finally:
            for job in self._running:  # only after an error of ours, or a second Ctrl-C
                job.process.terminate()
                job.process.join()
        if self.control.signal_number is not None:
            raise TrainingStopped(
                "Stopped; what was being trained is saved.",
                hint="Run the same command again to continue.",
                signal_number=self.control.signal_number,
            )


def _work(connection: Connection, make: Callable[..., Manifest], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent passes it on
    from lst.pipeline.run import peak_memory_mb

    manifest, error = None, None
    try:
        manifest = make(*arguments)
    except LstError as failure:
        error = failure
    except Exception as failure:
        import traceback

        error = LstError(f"{type(failure).__name__}: {failure}", hint=traceback.format_exc())
    connection.send(Done(manifest, error, peak_memory_mb()))
    connection.close()


def _result(job: _Running) -> Done:
    done: Done | None
    try:
        done = job.connection.recv()
    except (EOFError, pickle.UnpicklingError):
        done = None  # it died
    job.process.join()
    job.connection.close()
    if done is not None:
        return done
    code = job.process.exitcode or 0
    how = f"was killed (signal {-code})" if code < 0 else f"ended with exit code {code}"
    return Done(None, LstError(f"Its process {how}.", hint="Use fewer --jobs if memory ran out."), 0)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """For processes started inside: how many threads numeric libraries take, unless the user has said so."""
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = str(count)
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]


def run_together(
    names: list[str],
    waits_for: Mapping[str, list[str]],
    jobs: Jobs,
    start: Callable[[str], Manifest | None],
    ended: Callable[[str, Manifest, float, int], None],
) -> None:
    """Take care of `names` by `jobs`, in this order as far as `waits_for` (name -> names) allows.

    `start(name)` starts a stage's process, or returns its manifest if it is made already. `ended(name, manifest,
    seconds, peak_mb)` hears of each that was made. One that fails stops those that wait for it, not the others; the
    first one's error is raised at the end.
    """
    left, made, failed = list(names), set[str](), dict[str, LstError]()
    with jobs.stoppable():
        while left or jobs.busy:
            if jobs.free and (name := _ready(left, waits_for, made)) is not None:
                left.remove(name)
                try:
                    manifest = start(name)
                except LstError as error:
                    failed[name] = error
                    continue
                if manifest is not None:
                    made.add(name)
                continue
            if not jobs.busy:
                break
            for name, done, seconds in jobs.finished():
                if done.manifest is not None:
                    made.add(name)
                    ended(name, done.manifest, seconds, done.peak_mb)
                else:
                    failed[name] = done.error or LstError("It made nothing.")
    if failed:
        first, *others = failed
        also = f" (and {', '.join(others)})" if others else ""
        raise LstError(f"{first}{also} failed: {failed[first].message}", hint=failed[first].hint)


def _ready(left: list[str], waits_for: Mapping[str, list[str]], made: set[str]) -> str | None:
    return next((name for name in left if made.issuperset(waits_for[name])), None)
