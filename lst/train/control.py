"""Stopping a run on request: signals are remembered, and the step in progress is finished and saved first."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from lst.errors import LstError

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""What a batch system, Ctrl-C, and Slurm's `--signal=USR1` send."""


class TrainingStopped(LstError):
    """A run stopped on request; it is saved and continues when the same command is run again.

    The exit code is 128 + the signal's number (130, 143, 138), so that what comes next in a script does not start.
    """

    def __init__(self, message: str, *, hint: str = "", signal_number: int = int(signal.SIGTERM)) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = 128 + signal_number


@dataclass
class RunControl:
    """Why a run is about to end, if it is."""

    signal_number: int | None = None
    """A stop signal that reached this process."""
    stopping: bool = False
    """All processes know of the signal: the step in progress is the last one."""
    finished: bool = False
    """The budget is used up with the step in progress."""

    @property
    def ending(self) -> bool:
        """Whether the step in progress is the last one of this process; the same on all processes."""
        return self.finished or self.stopping


@contextmanager
def stop_signals(control: RunControl, on_stop: Callable[[], None]) -> Iterator[None]:
    """While inside, a stop signal sets `control.signal_number` and calls `on_stop`; a second Ctrl-C breaks off at once.

    Handlers exist in the main thread only; elsewhere signals keep doing what they did.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if control.signal_number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        control.signal_number = number
        on_stop()

    previous = {}
    try:
        for number in STOP_SIGNALS:
            previous[number] = signal.signal(number, handle)
    except ValueError:  # not the main thread: signals cannot be caught here
        previous.clear()
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
