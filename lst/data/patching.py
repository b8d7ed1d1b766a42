"""Patching: how the units of a speech span are grouped into patches (paper, section 3; only speech is patched).

    none        every unit is its own patch (the base SpeechLLM)
    static(p)   runs of p units; the last run of a span may be shorter
    aligned     one patch per word (or BPE piece) of the forced alignment, and per silence between words
    mixed       static or aligned, drawn per sequence
    curriculum  aligned with probability P(u) at training progress u: 1 before tau1, falling to 0 at tau2, 0 after
    bpe         baseline: units pass through a unit BPE, then each piece is its own patch

Everything here is numpy on whole spans: no Python loop runs over patches.

**Who may see a patch.** The token at position i predicts token i+1, so it may see a patch only if the patch is known
to be complete from tokens up to i. The last token of a full static patch knows that (it counts to p). The last token of
a span's short last patch does not: seeing it would reveal that the span ends. Nor does the last token of an aligned
patch: its end was found by an aligner that heard the future. Those patches have `closed = False`; they become visible
with the next token, which lies in another patch and so shows the boundary by itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from lst.config import StageConfig

IntArray = NDArray[np.int32]
BoolArray = NDArray[np.bool_]
Uniforms = Callable[[int], Sequence[float]]
"""Gives so many draws in [0, 1)."""

PatchingMode = Literal["none", "static", "aligned", "mixed", "curriculum", "bpe"]
"""What a run is configured with."""
PatchKind = Literal["none", "static", "aligned"]
"""What one sequence gets, after `mixed` and `curriculum` have been drawn."""


@dataclass
class Example:
    """One document, ready to be packed.

    `tokens` (n,) int32 ids of `Vocabulary`; `patch_lengths` (p,) int32, all positive, sum n; `closed` (p,) bool: may
    the patch be seen by its own last token; `loss_mask` (n,) bool: is token i a prediction target (the first token
    never is: nothing precedes it); `id`: the row it came from, for diagnostics; `words` (p, 2) int32: the words that
    its patches have to name (`lst.data.word_targets`), where training asks for them.
    """

    tokens: IntArray
    patch_lengths: IntArray
    closed: BoolArray
    loss_mask: BoolArray
    id: str
    words: IntArray | None = None

    @property
    def global_units(self) -> int:
        """Length for the global transformer: patches, with text and control tokens being patches of one."""
        return len(self.patch_lengths)


class PatchingConfig(StageConfig):
    """How speech spans are patched during training. Inference is static (or none): no aligner is needed."""

    mode: PatchingMode = Field(
        default="static", description="none, static, aligned, mixed, curriculum, or the bpe baseline"
    )
    size: int = Field(default=4, ge=1, le=64, description="units per static patch (the paper's p = 4; ablations 6, 9)")
    unit: Literal["word", "bpe"] = Field(default="word", description="what an aligned patch spans: words or BPE pieces")
    silence: Literal["separate", "merged"] = Field(
        default="separate", description="aligned: silence is a patch of its own, or joins the word before it"
    )
    mix: float = Field(default=0.5, ge=0.0, le=1.0, description="mixed: probability that a sequence is aligned")
    tau1: float = Field(
        default=1 / 3, ge=0.0, le=1.0, description="curriculum: share of training after which P(u) falls"
    )
    tau2: float = Field(default=2 / 3, ge=0.0, le=1.0, description="curriculum: share of training at which P(u) is 0")
    perturb: int = Field(
        default=0, ge=0, le=4, description="move aligned boundaries at random by up to so many 40 ms frames"
    )

    @model_validator(mode="after")
    def _ordered(self) -> "PatchingConfig":
        if self.tau2 < self.tau1:
            raise ValueError(
                f"tau2 ({self.tau2:g}) comes before tau1 ({self.tau1:g}); the curriculum ends after it starts"
            )
        return self

    @property
    def needs_alignment(self) -> bool:
        """Whether some sequence may be patched along words."""
        return self.mode in ("aligned", "mixed", "curriculum")

    def aligned_probability(self, progress: float) -> float:
        """P(u), the probability that a sequence is aligned at `progress` u = step / steps of training (0..1)."""
        if self.mode == "aligned":
            return 1.0
        if self.mode == "mixed":
            return self.mix
        if self.mode != "curriculum":
            return 0.0
        if progress < self.tau1:
            return 1.0
        if progress >= self.tau2:
            return 0.0
        return (self.tau2 - progress) / (self.tau2 - self.tau1)

    def kind(self, probability: float, draw: float) -> PatchKind:
        """What a sequence gets, from P(u) and a uniform draw in [0, 1). Pure, so a resumed run draws the same."""
        if self.mode in ("none", "bpe"):
            return "none"
        return "aligned" if draw < probability else "static"


@lru_cache(maxsize=4096)
def static_patches(num_units: int, size: int) -> tuple[IntArray, BoolArray]:
    """Runs of `size` units over a span of `num_units`: lengths `(p,)` and closed `(p,)`. A short last run is open.

    The arrays are shared between calls, and read-only.
    """
    full, rest = divmod(num_units, size)
    lengths = np.full(full + (rest > 0), size, dtype=np.int32)
    closed = np.ones(len(lengths), dtype=np.bool_)
    if rest:
        lengths[-1] = rest
        closed[-1] = False
    lengths.flags.writeable = closed.flags.writeable = False
    return lengths, closed


def aligned_boundaries(
    num_units: int,
    starts: IntArray,
    ends: IntArray,
    *,
    silence: Literal["separate", "merged"],
    cuts: IntArray | None = None,
) -> IntArray:
    """Patch boundaries 0 = b0 < b1 < ... < bp = `num_units` of one span.

    `starts`, `ends` (w,): the words in frames of the span, end exclusive, sorted, not overlapping. Separate: each word
    is a patch and each gap is one. Merged: a gap joins the word before it, the gap before the first word joins that
    word. `cuts`: further boundaries inside words (BPE pieces). Words at frames [2,5) and [6,8) of 8 units, separate:
    0 2 5 6 8 (the paper's example).
    """
    if num_units == 0:
        return np.zeros(1, dtype=np.int32)
    edges = [starts, ends] if silence == "separate" else [starts[1:]]
    if cuts is not None:
        edges.append(cuts)
    inner = np.concatenate(edges) if edges else np.empty(0, dtype=np.int32)
    inner = np.unique(inner[(inner > 0) & (inner < num_units)])
    return np.concatenate(([0], inner, [num_units])).astype(np.int32)


def piece_cuts(starts: IntArray, ends: IntArray, counts: IntArray, weights: NDArray[np.float64]) -> IntArray:
    """Boundaries between the BPE pieces of each word, in frames.

    Forced alignment knows words only, so a word's frames are shared among its pieces in proportion to their weight
    (characters). `starts`, `ends` (w,): word frames; `counts` (w,): pieces per word, sum m; `weights` (m,): of the
    pieces, in order. A piece that rounds to no frame joins its neighbour.
    """
    if len(weights) == 0:
        return np.empty(0, dtype=np.int32)
    word = np.repeat(np.arange(len(starts)), counts)
    weights = np.maximum(weights, 1e-6)
    sums = np.bincount(word, weights=weights, minlength=len(starts))
    share = (np.cumsum(weights) - (np.cumsum(sums) - sums)[word]) / sums[word]
    frames = starts[word] + np.rint(share * (ends - starts)[word])
    return frames.astype(np.int32)


def perturb_boundaries(boundaries: IntArray, frames: int, uniforms: Uniforms) -> IntArray:
    """Moves each inner boundary by up to ±`frames`, keeping their number and order (paper: robustness ablation)."""
    inner = len(boundaries) - 2
    if frames == 0 or inner < 1:
        return boundaries
    steps = np.arange(1, inner + 1)
    shifts = np.floor(np.array(uniforms(inner)) * (2 * frames + 1)).astype(np.int32) - frames
    moved = boundaries[1:-1] + shifts
    # Strictly increasing, a frame or more from either end: push right where they collide, then cap from the right.
    moved = np.maximum.accumulate(np.maximum(moved, steps) - steps) + steps
    moved = np.minimum(moved, boundaries[-1] - (inner + 1) + steps)
    return np.concatenate((boundaries[:1], moved, boundaries[-1:])).astype(np.int32)


def patch_span(
    kind: PatchKind,
    num_units: int,
    config: PatchingConfig,
    *,
    starts: IntArray,
    ends: IntArray,
    cuts: IntArray | None = None,
    uniforms: Uniforms | None = None,
) -> tuple[IntArray, BoolArray]:
    """Patch lengths `(p,)` int32, sum `num_units`, and closed `(p,)` bool of one speech span.

    `starts`, `ends`, `cuts`: as in `aligned_boundaries`; only `kind="aligned"` looks at them. `uniforms` is used only
    for perturbed boundaries.
    """
    if kind == "none":
        return np.ones(num_units, dtype=np.int32), np.ones(num_units, dtype=np.bool_)
    if kind == "static":
        return static_patches(num_units, config.size)
    boundaries = aligned_boundaries(num_units, starts, ends, silence=config.silence, cuts=cuts)
    if config.perturb and uniforms is not None:
        boundaries = perturb_boundaries(boundaries, config.perturb, uniforms)
    lengths = np.diff(boundaries).astype(np.int32)
    return lengths, np.zeros(len(lengths), dtype=np.bool_)
