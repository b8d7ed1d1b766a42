"""How much memory a run takes above what its process held before: what `--dry-run` predicts."""

from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


class PeakMemory:
    """The most memory that this process has held since this object was made, less what it held then."""

    def __init__(self) -> None:
        self._resident: float | None = None
        # A stage before this one may have needed more: the kernel is asked to begin its count again.
        try:
            CLEAR.write_text("5")
        except OSError:
            return  # not Linux, or not allowed: nothing can be said
        self._resident = _status("VmRSS")

    def bytes(self, device: torch.device) -> float | None:
        """On a GPU: what torch has handed out there at most. On a CPU: the resident set above that of the beginning,
        so without libraries; None where the kernel does not tell.
        """
        if device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(device))
        return None if self._resident is None else _status("VmHWM") - self._resident


def _status(key: str) -> float:
    """An entry of the kernel's account of this process, in bytes."""
    line = next(line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith(f"{key}:"))
    return 1024.0 * float(line.split()[1])
