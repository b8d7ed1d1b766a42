"""How loud a recording is, and whether it is clipped: measured at its own rate, in blocks, without resampling."""

import math
from dataclasses import dataclass
from pathlib import Path

from lst.audio.decode import native_blocks, to_mono

FULL_SCALE = 0.99
"""Magnitude from which a sample counts as clipped (8-bit audio reaches 127/128 at most)."""

FRAME_S = 0.1
"""Seconds per frame whose power is taken."""


@dataclass(frozen=True)
class Level:
    """`loudest_dbfs`: power of the loudest tenth of a second, in dB below full scale, constant offset removed.

    `clipped`: share of samples, in any channel, at full scale.
    """

    frames: int
    loudest_dbfs: float
    clipped: float


def measure(path: Path | str, rate: int, start: int = 0, stop: int | None = None) -> Level:
    """Decode frames [start, stop) of a recording of `rate` frames per second to the end. Raises AudioError."""
    import numpy as np

    frame = max(1, round(rate * FRAME_S))
    frames = clipped = 0
    loudest = 0.0
    rest = np.zeros(0, dtype=np.float32)
    for block in native_blocks(path, start, stop):
        clipped += int((np.abs(block) >= FULL_SCALE).any(axis=1).sum())
        frames += len(block)
        mono = np.concatenate([rest, to_mono(block)])
        whole = len(mono) // frame * frame
        if whole:
            loudest = max(loudest, float(mono[:whole].reshape(-1, frame).var(axis=1, dtype=np.float64).max()))
        rest = mono[whole:]
    if frames < frame:
        loudest = float(rest.var(dtype=np.float64)) if len(rest) else 0.0
    return Level(frames, 10 * math.log10(max(loudest, 1e-12)), clipped / max(frames, 1))
