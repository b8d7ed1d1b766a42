"""Next-token cross-entropy on original tokens, summed, with the share of each modality (paper, section 3).

The logits of all targets would be the largest tensor of a step (V numbers per target), so they are made in chunks, and
each chunk's gradient is taken at once: logits never exist for more than a chunk, and nothing is computed twice.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lst.model.linear import Linear, outer, product

CHUNK_LOGITS = {"cpu": 1 << 21, "cuda": 1 << 27}
"""Logits made at once: 8 MiB on a CPU (they stay near its caches), 512 MiB on a GPU."""


@dataclass(frozen=True)
class LossOutput:
    """Sums over prediction targets in nats; divide by the counts. All are scalar tensors on the model's device.

    `loss` carries the gradient; the others are detached. `speech_*`: targets that are units; `text_*`: text pieces;
    what is left of `loss` and `count` are control tokens. Of the units, `text_to_speech_loss` is that of those whose
    document held text before them; of the text pieces, `speech_to_text_*` are those that came after units. `count`s are
    float32 so that processes can add them up.
    """

    loss: Tensor
    count: Tensor
    speech_loss: Tensor
    speech_count: Tensor
    text_loss: Tensor
    text_count: Tensor
    text_to_speech_loss: Tensor
    speech_to_text_loss: Tensor
    speech_to_text_count: Tensor

    @property
    def mean(self) -> Tensor:
        """Loss per target."""
        return self.loss / self.count.clamp_min(1)


class _HeadLoss(torch.autograd.Function):
    """(states (N, d), weight (V, d), targets (N,)) -> (sum of losses, each loss (N,) float32)."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        dtype = states.dtype
        if torch.is_autocast_enabled(states.device.type):
            dtype = torch.get_autocast_dtype(states.device.type)
        matrix = weight.to(dtype)
        losses = torch.empty(len(targets), dtype=torch.float32, device=states.device)
        by_states = torch.empty_like(states)
        by_weight = torch.zeros_like(weight, dtype=torch.float32)
        for chunk in _chunks(states, len(weight)):
            part, wanted = states[chunk].to(dtype), targets[chunk, None]
            losses[chunk], exps, total = _cross_entropy(product(part, matrix), wanted)
            # d loss / d logits = exps / total - onehot(target). The division moves to the small factors.
            exps = exps.to(dtype)
            scaled = (part.float() / total).to(dtype)
            by_states[chunk] = product(exps, matrix.T).float() / total - matrix[wanted[:, 0]].float()
            by_weight += outer(exps, scaled).float()
            by_weight.index_add_(0, wanted[:, 0], part.float(), alpha=-1)
        ctx.save_for_backward(by_states, by_weight.to(weight.dtype))
        ctx.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None]:
        by_states, by_weight = ctx.saved_tensors
        return by_states * grad.to(by_states.dtype), by_weight * grad.to(by_weight.dtype), None


def _chunks(states: Tensor, vocabulary: int) -> list[slice]:
    rows = max(1, CHUNK_LOGITS.get(states.device.type, 1 << 25) // vocabulary)
    return [slice(start, start + rows) for start in range(0, len(states), rows)]


def _cross_entropy(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Losses (n,) of `logits` (n, V), which are used up; their exponentials (n, V), and the sums of these (n, 1)."""
    logits = logits.float()
    right = logits.gather(1, wanted)
    peak = logits.amax(1, keepdim=True)
    exps = logits.sub_(peak).exp_()
    total = exps.sum(1, keepdim=True)
    return (total.log() + peak - right).squeeze(1), exps, total


def head_loss(states: Tensor, head: Linear, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy in nats of `targets` (N,) under `head` applied to `states` (N, d).

    Returns its sum, through which gradients flow, and the value per target, (N,) float32 and detached.
    """
    if torch.is_grad_enabled() and head.packed is None and (states.requires_grad or head.weight.requires_grad):
        return _HeadLoss.apply(states, head.weight, targets)  # type: ignore[no-untyped-call, no-any-return]
    losses = torch.empty(len(targets), dtype=torch.float32, device=states.device)
    with torch.no_grad():
        for chunk in _chunks(states, head.out_features):
            losses[chunk] = _cross_entropy(head(states[chunk]), targets[chunk, None])[0]
    return losses.sum(), losses


def summarise(
    total: Tensor, losses: Tensor, targets: Tensor, crossed: Tensor, text_size: int, unit_offset: int
) -> LossOutput:
    """The summed loss `total` with its parts, from `losses` (N,), `targets` (N,) and `PackedBatch.crossed` (N,)."""
    speech = (targets >= unit_offset).to(losses.dtype)
    text = (targets < text_size).to(losses.dtype)
    return LossOutput(
        loss=total,
        count=torch.tensor(float(len(targets)), device=losses.device),
        speech_loss=(losses * speech).sum(),
        speech_count=speech.sum(),
        text_loss=(losses * text).sum(),
        text_count=text.sum(),
        text_to_speech_loss=(losses * speech * crossed).sum(),
        speech_to_text_loss=(losses * text * crossed).sum(),
        speech_to_text_count=(text * crossed).sum(),
    )
