"""Stopping a run on request: signals are remembered, and the step in progress is finished and saved first."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

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


class Stoppable(Protocol):
    """What a run asks to end: fairseq2's trainer."""

    def request_stop(self) -> None:
        """End after the step in progress."""


@dataclass
class RunControl:
    """Where a run stands, and why it is about to end, if it is."""

    step: int = 0
    """Steps done, those of earlier attempts included."""
    last_loss: float | None = None
    """Nats per target of the newest batch of this process."""
    signal_number: int | None = None
    """A stop signal that reached this process."""
    stopping: bool = False
    """All processes know of the signal: the step in progress is the last one."""
    finished: bool = False
    """The budget is used up with the step in progress."""
    rank: int = 0
    world: int = 1
    trainer: Stoppable | None = None

    @property
    def ending(self) -> bool:
        """Whether the step in progress is the last one of this process; the same on all processes."""
        return self.finished or self.stopping

    def attach(self, trainer: Stoppable) -> None:
        """Tell `trainer` when to stop: at once, if a signal came before it was built."""
        self.trainer = trainer
        if self.ending:
            trainer.request_stop()

    def receive(self, signal_number: int) -> None:
        """A stop signal came. Several processes first have to agree on their last step: see `stop`."""
        self.signal_number = signal_number
        if self.world == 1:
            self.stop()

    def stop(self) -> None:
        """End after the step in progress, saving it."""
        self.signal_number = self.signal_number or int(signal.SIGTERM)  # another process got it
        self.stopping = True
        if self.trainer is not None:
            self.trainer.request_stop()

    def finish(self) -> None:
        """The budget is used up: the trainer is asked to stop as if by a signal, since only then it ends in order."""
        self.finished = True
        if self.trainer is not None:
            self.trainer.request_stop()


@contextmanager
def stop_signals(control: RunControl) -> Iterator[None]:
    """While inside, a stop signal goes to `control`; a second Ctrl-C breaks off at once.

    Handlers exist in the main thread only; elsewhere signals keep doing what they did.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if control.signal_number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        control.receive(number)

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
