"""An additional loss by which the states of speech patches name words (`PretrainConfig.words`; not in the paper).

The heads that it needs are part of the training module and of its checkpoints, not of the model that comes out.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lst.data.word_targets import ENDED, NEXT, NO_WORD
from lst.model.init import EMBEDDING_STD
from lst.model.linear import Linear
from lst.model.loss import head_loss
from lst.train.config import WordsConfig

if TYPE_CHECKING:
    from lst.data.batch import PackedBatch
    from lst.model.config import LSTConfig
    from lst.model.lst import LST


@dataclass(frozen=True)
class WordLoss:
    """`loss`: what is added to that of the units and text, weighted and summed over patches, with its gradient. The
    others are detached: sums in nats, and how many patches they are of."""

    loss: Tensor
    ended_loss: Tensor
    ended_count: Tensor
    next_loss: Tensor
    next_count: Tensor


class WordHeads(nn.Module):
    """Names words from the global transformer's states: the word that ended by a head of its own, the next one by the
    head that writes text, after a map that begins as the identity. So what is heard is expected as if it were read.
    """

    def __init__(self, config: "LSTConfig", weights: WordsConfig, seed: int) -> None:
        super().__init__()
        wide, written = config.global_transformer.dim, _written_dim(config)
        self.weights = weights
        self.ended = Linear(wide, config.text_size)
        self.next = Linear(wide, written)
        std = min(EMBEDDING_STD, 0.3 / math.sqrt(wide))
        nn.init.trunc_normal_(
            self.ended.weight, std=std, a=-3 * std, b=3 * std, generator=torch.Generator().manual_seed(seed)
        )
        nn.init.eye_(self.next.weight)

    def forward(self, lst: "LST", outputs: Tensor, words: Tensor | None) -> WordLoss:
        """The loss of the patches' states `outputs` (B, P, d_global) for `words` (B, P, 2); None: none has a word."""
        if words is None:  # the heads get a gradient of zero: every process of a run has one for every weight
            words = torch.full((*outputs.shape[:2], 2), NO_WORD, device=outputs.device)
        ended, following = words[..., ENDED], words[..., NEXT]
        of_ended, of_next = ended != NO_WORD, following != NO_WORD
        text_head = lst.head if lst.text_head is None else lst.text_head
        ended_loss, _ = head_loss(outputs[of_ended], self.ended, ended[of_ended])
        next_loss, _ = head_loss(self.next(outputs[of_next]), text_head, following[of_next])
        return WordLoss(
            self.weights.ended * ended_loss + self.weights.next * next_loss,
            ended_loss.detach(),
            of_ended.sum().float(),
            next_loss.detach(),
            of_next.sum().float(),
        )


def word_flops(config: "LSTConfig", ended: float, following: float) -> float:
    """FLOPs of a training step's heads for so many patches that name the word that ended, and the next one."""
    wide, written = config.global_transformer.dim, _written_dim(config)
    forward = ended * wide * config.text_size + following * written * (wide + config.vocabulary.size)
    return 3 * 2 * forward


def batch_word_flops(config: "LSTConfig", batch: "PackedBatch") -> float:
    """`word_flops` of a batch."""
    if batch.words is None:
        return 0.0
    named = (batch.words != NO_WORD).sum((0, 1)).tolist()
    return word_flops(config, named[ENDED], named[NEXT])


def _written_dim(config: "LSTConfig") -> int:
    """Width of what the head that writes text reads."""
    if config.decoder is None or not config.text_local:
        return config.global_transformer.dim
    return config.decoder.dim


def word_counts(losses: WordLoss) -> dict[str, float]:
    """The sums of a word loss by the names that a run counts them by."""
    values = (losses.ended_loss, losses.ended_count, losses.next_loss, losses.next_count)
    numbers = torch.stack([value.double() for value in values]).tolist()
    return dict(zip(("ended_loss", "ended_targets", "next_loss", "next_targets"), numbers, strict=True))
