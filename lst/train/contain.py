"""Keeps what fairseq2 does to the process inside a run: logging, environment variables, seeds, warnings.

fairseq2 is made for one recipe per process. Here a pipeline trains several models in one process under a progress bar,
so everything global it changes is put back, its log goes to a file, and no secret reaches that file: it logs every
environment variable at the start.
"""

import logging
import os
import random
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOGGED_VARIABLES = re.compile(
    r"^(RANK|LOCAL_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|MASTER_ADDR|MASTER_PORT|CUDA_VISIBLE_DEVICES|OMP_NUM_THREADS"
    r"|MKL_NUM_THREADS|TORCH_\w+|NCCL_\w+|GLOO_\w+|SLURM_(JOB_ID|PROCID|NTASKS|NNODES|NODEID))$"
)
"""The environment variables that explain a run; no other reaches the log."""

SECRET_NAME = re.compile(r"key|token|secret|passw|credential|auth|private", re.IGNORECASE)
"""A variable with such a name has its value blotted out of every message."""


class Redact(logging.Filter):
    """Removes environment variables from fairseq2's messages, except those that explain the run."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Makes the message safe; drops the record only if it announces a checkpoint, which need not follow."""
        message = record.getMessage()
        if message.startswith("Preparing checkpoint"):
            return False
        if message.startswith("Environment Variables"):
            shown = sorted(name for name in os.environ if LOGGED_VARIABLES.match(name) and not SECRET_NAME.search(name))
            message = "Environment: " + ", ".join(f"{name}={os.environ[name]}" for name in shown)
        for name, value in os.environ.items():
            if len(value) >= 6 and SECRET_NAME.search(name):
                message = message.replace(value, "[redacted]")
        record.msg, record.args = message, ()
        return True


@contextmanager
def contained() -> Iterator[None]:
    """Run fairseq2 inside; afterwards the process is as it was before."""
    import numpy as np
    import torch

    root, library = logging.getLogger(), logging.getLogger("fairseq2")
    loggers = [
        (logger, logger.handlers[:], logger.filters[:], logger.level, logger.propagate) for logger in (root, library)
    ]
    environment = dict(os.environ)
    # fairseq2 seeds the global generators; lst itself never draws from them.
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    threads = torch.get_num_threads()
    # fairseq2 closes whatever handlers the root logger has: those of the caller are taken away first.
    root.handlers = []
    redact = Redact()
    library.addFilter(redact)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else it redirects torch's own log for good
    logging.disable(logging.WARNING)  # until `log_to_file` says where to
    # On a full disk logging prints a traceback for every line it cannot write; what follows it says so in a sentence.
    raising, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        with warnings.catch_warnings():
            logging.captureWarnings(True)
            yield
    finally:
        logging.captureWarnings(False)
        logging.raiseExceptions = raising
        logging.disable(logging.NOTSET)
        for logger, handlers, filters, level, propagate in loggers:
            for handler in logger.handlers:
                if handler not in handlers:
                    with suppress(OSError):  # lines that the disk had no room for
                        handler.close()
            logger.handlers, logger.filters = handlers, filters
            logger.setLevel(level)
            logger.propagate = propagate
        os.environ.clear()
        os.environ.update(environment)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        torch.set_num_threads(threads)


def log_to_file(log_file: Path) -> None:
    """Send the root logger to `log_file` (appending) instead of the console. Call once fairseq2 has set logging up."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    handler = logging.FileHandler(log_file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s - %(message)s"))
    handler.addFilter(Redact())
    root.addHandler(handler)
    logging.disable(logging.NOTSET)
