"""Tiny models and examples for the model's tests."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lst.data.patching import Example, PatchingConfig, static_patches
from lst.data.vocabulary import Vocabulary
from lst.model import LST, LSTConfig, TransformerConfig, build_model

VOCABULARY = Vocabulary(text_size=23, num_units=19)
Ints = NDArray[np.int32]


def tiny_config(mode: str = "static", *, size: int = 4, **changes: Any) -> LSTConfig:
    """A model of a few thousand weights. `changes` replace fields of the configuration."""
    patching = PatchingConfig(mode=mode, size=size)
    wide = TransformerConfig(layers=2, dim=32, heads=4, kv_heads=2)
    local: dict[str, Any] = {}
    if mode not in ("none", "bpe"):
        local["encoder"] = TransformerConfig(layers=1, dim=16, heads=2, window=5, rope_theta=1e4)
        local["decoder"] = TransformerConfig(layers=2, dim=24, heads=2, kv_heads=1, window=7, rope_theta=1e4)
    values: dict[str, Any] = {
        "text_size": VOCABULARY.text_size,
        "num_units": VOCABULARY.num_units,
        "patching": patching,
        "global_transformer": wide,
        **local,
        **changes,
    }
    return LSTConfig(**values)


def tiny_model(mode: str = "static", *, seed: int = 0, backend: Any = "auto", **changes: Any) -> LST:
    """A tiny model with every weight away from its start, so that nothing hides behind a zero or a one."""
    model = build_model(tiny_config(mode, **changes), seed=seed, backend=backend)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def text(rng: np.random.Generator, count: int) -> Ints:
    return rng.integers(0, VOCABULARY.text_size, count).astype(np.int32)


def units(rng: np.random.Generator, count: int) -> Ints:
    return VOCABULARY.from_units(rng.integers(0, VOCABULARY.num_units, count))


def document(rng: np.random.Generator, *spans: int) -> Ints:
    """Tokens of one document: spans of so many text tokens (negative) or units (positive), with markers and an end."""
    parts: list[Ints] = []
    for span in spans:
        marker = VOCABULARY.text_marker if span < 0 else VOCABULARY.speech_marker
        parts += [np.array([marker], dtype=np.int32), text(rng, -span) if span < 0 else units(rng, span)]
    return np.concatenate([*parts, np.array([VOCABULARY.end], dtype=np.int32)])


def example(tokens: Ints, starts: NDArray[np.bool_], closed: NDArray[np.bool_], name: str = "row") -> Example:
    """An example from where its patches start, (n,) bool, and whether each is closed, (p,) bool."""
    edges = np.append(np.flatnonzero(starts), len(tokens))
    wanted = np.ones(len(tokens), dtype=np.bool_)
    wanted[0] = False
    return Example(tokens, np.diff(edges).astype(np.int32), closed, wanted, name)


def spans(tokens: Ints) -> list[tuple[bool, int, int]]:
    """Runs of equal modality: (is speech, first, last + 1)."""
    speech = np.asarray(VOCABULARY.is_unit(tokens))
    edges = [0, *(np.flatnonzero(np.diff(speech)) + 1), len(tokens)]
    return [(bool(speech[a]), int(a), int(b)) for a, b in pairwise(edges)]


def static_example(tokens: Ints, size: int, name: str = "row") -> Example:
    """Static patches worked out from the tokens alone; `size` 1 is also what patching `none` gives."""
    starts, closed = np.zeros(len(tokens), dtype=np.bool_), []
    for speech, first, last in spans(tokens):
        lengths, flags = static_patches(last - first, size if speech else 1)
        starts[first + np.cumsum(lengths) - lengths] = True
        closed.append(flags)
    return example(tokens, starts, np.concatenate(closed), name)


def aligned_example(tokens: Ints, boundaries: NDArray[np.bool_], name: str = "row") -> Example:
    """Patches that start at the `boundaries` (n,) inside speech, and at every text token; speech patches are open."""
    speech = np.asarray(VOCABULARY.is_unit(tokens))
    starts = boundaries | ~speech
    starts[1:] |= speech[1:] & ~speech[:-1]
    starts[0] = True
    return example(tokens, starts, ~speech[starts], name)


def make(tokens: Ints, mode: str, *, size: int = 4, seed: int = 0, name: str = "row") -> Example:
    """An example of any patching; aligned boundaries are drawn from `seed`, position by position."""
    if mode in ("none", "bpe"):
        return static_example(tokens, 1, name)
    if mode == "static" or (mode in ("mixed", "curriculum") and seed % 2):
        return static_example(tokens, size, name)
    drawn = np.random.default_rng(seed).random(512)[: len(tokens)] < 0.3
    return aligned_example(tokens, drawn, name)


MODES = ["none", "static", "aligned", "mixed", "curriculum", "bpe"]
