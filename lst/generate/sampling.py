"""Choosing the next token: which ones are allowed, and which one it is."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lst.config import StageConfig
from lst.data.random import uniforms
from lst.data.vocabulary import Vocabulary
from lst.generate.layout import Modality

Ids = NDArray[np.int64]

DRAWS = 64
"""Draws made at a time: one by one, hashing starts from cold caches after every step of the model."""


class GenerateConfig(StageConfig):
    """How a continuation is drawn. The same settings, prompt and model give the same tokens."""

    modality: Literal["speech", "text", "any"] = Field(
        "any", description="what may come: units, text, or both with markers between them"
    )
    max_tokens: int = Field(500, ge=1, description="longest continuation in units, text pieces and markers")
    min_tokens: int = Field(0, ge=0, description="no end of document before so many")
    greedy: bool = Field(False, description="always the likeliest token; temperature, top_k, top_p and seed are idle")
    temperature: float = Field(0.8, gt=0, le=10, description="below 1 sharpens the distribution, above 1 flattens it")
    top_k: int | None = Field(None, ge=1, description="choose among the k likeliest tokens")
    top_p: float | None = Field(
        0.95, gt=0, le=1, description="choose among the likeliest tokens that together have this probability"
    )
    seed: int = Field(0, ge=0, description="of the draws; row k of a batch has draws of its own")


@dataclass
class Grammar:
    """What may follow in one document: text pieces inside text, units inside speech, markers and `<end>` between.

    `modality`: of the open span; `count`: tokens generated so far. A span that has just been opened cannot end, nor can
    the document before `config.min_tokens`.
    """

    vocabulary: Vocabulary
    config: GenerateConfig
    modality: Modality
    forbidden: tuple[int, ...] = ()
    """Ids that are never generated, such as the text tokenizer's own begin and end pieces."""
    count: int = 0
    _fresh: bool = field(default=False, init=False)
    _allowed: dict[tuple[Modality, bool, bool], Ids] = field(default_factory=dict, init=False)

    def allowed(self) -> Ids:
        """Which ids may come next, ascending."""
        state = (self.modality, self._fresh, self.count >= self.config.min_tokens)
        if state not in self._allowed:
            self._allowed[state] = self._ids(*state)
        return self._allowed[state]

    def _ids(self, modality: Modality, fresh: bool, may_end: bool) -> Ids:
        names = self.vocabulary
        mask = np.zeros(names.size, dtype=np.bool_)
        if modality == "text":
            mask[: names.text_size] = True
            mask[list(self.forbidden)] = False
        else:
            mask[names.unit_offset :] = True
        if not fresh:
            mask[names.end] = may_end
            if self.config.modality == "any":
                mask[names.speech_marker if modality == "text" else names.text_marker] = True
        return np.flatnonzero(mask)

    def accept(self, token: int) -> bool:
        """Take note of a token. Returns whether the document goes on."""
        if token == self.vocabulary.end:
            return False
        self.count += 1
        self._fresh = token in (self.vocabulary.text_marker, self.vocabulary.speech_marker)
        if self._fresh:
            self.modality = "text" if token == self.vocabulary.text_marker else "speech"
        return self.count < self.config.max_tokens


def draw(config: GenerateConfig, row: int, count: int) -> float:
    """The uniform draw in [0, 1) for token `count` of row `row`: whatever the batch around it."""
    return _draws(config.seed, row, count // DRAWS)[count % DRAWS]


@lru_cache(maxsize=256)
def _draws(seed: int, row: int, block: int) -> list[float]:
    return [uniforms(1, "generate", seed, row, count)[0] for count in range(block * DRAWS, (block + 1) * DRAWS)]


def choose(logits: NDArray[np.float32], allowed: Ids, config: GenerateConfig, uniform: float) -> int:
    """One of the ids `allowed` (ascending) from logits `(V,)` by a uniform draw in [0, 1). Greedy ties go to the
    smallest id."""
    if config.greedy:
        return int(allowed[logits[allowed].argmax()])
    costs = np.divide(logits[allowed], -config.temperature, dtype=np.float64)
    # From the likeliest down; a stable order, so that equal logits do not depend on the sorting algorithm.
    order = costs.argsort(kind="stable")[: config.top_k]
    costs = costs[order]
    sums = np.exp(costs[0] - costs).cumsum()
    keep = len(order)
    if config.top_p is not None:
        # The smallest set that reaches top_p: the token that crosses the line is in it.
        keep = min(int(sums.searchsorted(config.top_p * sums[-1])) + 1, keep)
    drawn = int(sums.searchsorted(uniform * sums[keep - 1], side="right"))
    return int(allowed[order[min(drawn, keep - 1)]])
