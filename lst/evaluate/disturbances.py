"""Ways to disturb a recording without changing what is said: does a tokenizer give the same units?"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Samples = NDArray[np.float32]

SPEEDS = {"speed 0.9": (10, 9), "speed 1.1": (10, 11)}
"""Name -> (up, down): the recording becomes up / down times as long, its pitch with it."""


@dataclass(frozen=True)
class Disturbance:
    """`apply`: (n,) samples and a generator -> samples; `speed`: how much faster the result is."""

    apply: "Callable[[Samples, np.random.Generator], Samples]"
    speed: float = 1.0


def noise(samples: "Samples", random: np.random.Generator, decibels: float = 20.0) -> "Samples":
    """White noise, `decibels` below the recording's own power."""
    level = float(np.sqrt(np.mean(samples.astype(np.float64) ** 2))) * 10 ** (-decibels / 20)
    return (samples + level * random.standard_normal(len(samples))).astype(np.float32)


def gain(samples: "Samples", decibels: float) -> "Samples":
    """Louder or quieter; not clipped."""
    return (samples * np.float32(10 ** (decibels / 20))).astype(np.float32)


def band_limit(samples: "Samples") -> "Samples":
    """What is left at a sampling rate of 8 kHz."""
    from scipy.signal import resample_poly

    back = resample_poly(resample_poly(samples, 1, 2), 2, 1)[: len(samples)]
    limited: Samples = back.astype(np.float32)
    return limited


def respeed(samples: "Samples", up: int, down: int) -> "Samples":
    """`up` / `down` times as long."""
    from scipy.signal import resample_poly

    stretched: Samples = resample_poly(samples, up, down).astype(np.float32)
    return stretched


def disturbances() -> dict[str, Disturbance]:
    """Those that are measured, by name."""
    found = {
        "noise 20 dB": Disturbance(noise),
        "gain +6 dB": Disturbance(lambda samples, random: gain(samples, 6.0)),
        "gain -6 dB": Disturbance(lambda samples, random: gain(samples, -6.0)),
        "8 kHz band": Disturbance(lambda samples, random: band_limit(samples)),
    }
    for name, (up, down) in SPEEDS.items():
        found[name] = Disturbance(
            lambda samples, random, up=up, down=down: respeed(samples, up, down),  # type: ignore[misc]
            speed=down / up,
        )
    return found


def unchanged(
    units: "NDArray[np.integer]", disturbed: "NDArray[np.integer]", speed: float = 1.0
) -> "NDArray[np.bool_]":
    """(T',) whether each unit of the disturbed recording is the one at the same place of what is said."""
    places = ((np.arange(len(disturbed)) + 0.5) * speed).astype(np.int64)
    inside = places < len(units)
    same: NDArray[np.bool_] = disturbed[inside] == units[places[inside]]
    return same
