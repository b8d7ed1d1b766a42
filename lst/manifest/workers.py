"""Work in several processes: one thread each, all stopped at once by Ctrl-C or by an error in any of them."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from lst.errors import LstError

Key = TypeVar("Key")
Task = TypeVar("Task")
Result = TypeVar("Result")


def in_processes(
    function: Callable[[Task], Result], tasks: Mapping[Key, Task], workers: int
) -> Iterator[tuple[Key, Result]]:
    """(key, function(task)) of every task, in the order in which they are done by `workers` processes.

    `function`, tasks and results are pickled. Raises what `function` raises, and LstError if a process dies.
    """
    # spawn: workers load torch, and a fork of a process with running threads can hang.
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context, initializer=_one_thread) as pool:
        with _interrupts_held_back():  # workers are started by the first task, and inherit this: Ctrl-C is the parent's
            futures = {pool.submit(function, task): key for key, task in tasks.items()}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise LstError(
                "A worker process died (killed, or out of memory).",
                hint="Run the same command again, it continues; use fewer --workers if memory is short.",
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()  # what they write is whole or not there: nobody need wait for what was begun
            raise


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Ctrl-C arrives afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _one_thread() -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
