"""The learning rate as a function of the steps done and of the share of the budget used."""

import math


def lr_factor(steps_done: int, progress: float, *, warmup_steps: int, final: float) -> float:
    """What the peak learning rate is multiplied with in the next step.

    A cosine from 1 at `progress` 0 (the share of the budget used) to `final` at 1, times a linear warm-up over
    `warmup_steps`. The first step has 1 / warmup_steps of the peak: with 0 it would be wasted. Following the budget
    instead of the step makes runs end their schedule whatever the budget counts, so that they can be compared.
    """
    warmup = min(1.0, (steps_done + 1) / warmup_steps) if warmup_steps else 1.0
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, max(0.0, progress))))
    return warmup * (final + (1.0 - final) * cosine)
