"""What voices and noise are made of, in torch: pulses at the fundamental for many pieces at once or as frames come.

The source-filter (`lst.vocoder.source_filter`) places its pulses one by one; here a pulse train is the closed form of
a sum of equal cosines, all of whose samples are computed at once, on any device.
"""

import math

import torch
from torch import Tensor

from lst.constants import SAMPLE_RATE
from lst.vocoder.source_filter import LOG_F0_RANGE


class Pulses:
    """A pulse train with memory: `push` the log F0 of the next frames."""

    def __init__(self, hop: int) -> None:
        self._hop = hop
        self._phase: Tensor | None = None
        self._last: Tensor | None = None

    def push(self, log_f0: Tensor) -> Tensor:
        """(B, K) natural logarithms of Hz -> (B, hop * K) float32, of unit power.

        Log F0 runs in a line from one frame to the next, its phase on from the last push. All harmonics below 8 kHz
        have the same strength: sum over k = 1 ... n of cos(k x) = (sin((n + 1/2) x) / sin(x / 2) - 1) / 2.
        """
        target = log_f0.detach().double().clamp(*LOG_F0_RANGE)
        last = target[:, :1] if self._last is None else self._last
        before = torch.cat([last, target[:, :-1]], 1)
        part = torch.arange(1, self._hop + 1, device=log_f0.device, dtype=torch.float64) / self._hop
        f0 = (before[..., None] + (target - before)[..., None] * part).flatten(1).exp()
        phase = torch.cumsum(f0 / SAMPLE_RATE, 1)
        if self._phase is not None:
            phase = phase + self._phase
        self._last, self._phase = target[:, -1:], phase[:, -1:] % 1.0
        angle = 2 * math.pi * (phase - phase.round())
        count = torch.floor(SAMPLE_RATE / 2 / f0)
        half = torch.sin(angle / 2)
        near = half.abs() < 1e-6
        ratio = torch.where(near, 2 * count + 1, torch.sin((count + 0.5) * angle) / torch.where(near, 1.0, half))
        return ((ratio - 1) / 2 * torch.sqrt(2 / count)).float()
