"""Next-token cross-entropy on original tokens, summed, with the share of each modality (paper, section 3)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

CHUNK_LOGITS = 1 << 25
"""Logits computed at once (128 MiB of float32). More are made in chunks and made again in the backward pass."""


@dataclass(frozen=True)
class LossOutput:
    """Sums over prediction targets in nats; divide by the counts. All are scalar tensors on the model's device.

    `loss` carries the gradient; the others are detached. `speech_*`: targets that are units; `text_*`: text pieces;
    what is left of `loss` and `count` are control tokens. `count`s are float32 so that processes can add them up.
    """

    loss: Tensor
    count: Tensor
    speech_loss: Tensor
    speech_count: Tensor
    text_loss: Tensor
    text_count: Tensor

    @property
    def mean(self) -> Tensor:
        """Loss per target."""
        return self.loss / self.count.clamp_min(1)


def token_losses(states: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    """Cross-entropy in nats per target, (N,) float32: `states` (N, d), `targets` (N,) without ignored entries."""
    rows = max(1, CHUNK_LOGITS // head.out_features)
    if len(targets) <= rows:
        return _cross_entropy(states, head, targets)
    again = torch.is_grad_enabled()
    parts = []
    for part, wanted in zip(torch.split(states, rows), torch.split(targets, rows), strict=True):
        parts.append(
            checkpoint(_cross_entropy, part, head, wanted, use_reentrant=False)
            if again
            else _cross_entropy(part, head, wanted)
        )
    return torch.cat(parts)


def _cross_entropy(states: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    return F.cross_entropy(head(states).float(), targets, reduction="none")


def summarise(losses: Tensor, targets: Tensor, text_size: int, unit_offset: int) -> LossOutput:
    """Sums `losses` (N,) by the modality of `targets` (N,)."""
    detached = losses.detach()
    speech = (targets >= unit_offset).to(detached.dtype)
    text = (targets < text_size).to(detached.dtype)
    return LossOutput(
        loss=losses.sum(),
        count=torch.tensor(float(len(targets)), device=losses.device),
        speech_loss=(detached * speech).sum(),
        speech_count=speech.sum(),
        text_loss=(detached * text).sum(),
        text_count=text.sum(),
    )
