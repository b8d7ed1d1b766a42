"""Keys and values of past tokens, for attention one token at a time."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Rows = list[int]
"""Documents of a batch, ascending. Lists: for a few numbers numpy's calls cost more than the numbers."""

GROWTH = 256
"""Places added at least when a cache without a window is full; it also grows by half, so copies stay rare."""


class Places(NamedTuple):
    """Where the layers of a cache read and write in one step of R rows."""

    most: int
    """Places to read: the first so many."""
    rows: Tensor | None
    """(R * G,): the keys to read, if not all."""
    bias: Tensor | None
    """(R * G, 1, most): -inf at what a row does not see, unless all see the same."""
    keep: Tensor | None
    """(R, 1): 0 for a row that sees nothing (it would be 0/0: it sees everything, and its output is taken away)."""
    place: int
    """The place of the new token if it is the same for all rows of the cache, else -1."""
    at: Tensor | None
    """(R * G,): the rows of the new tokens, and `each` (R * G,): their places."""
    each: Tensor | None


class KeyValues:
    """Keys and values of a stack of layers, for B documents that grow at their own pace.

    `keys`, `values`: (layers, B * G, N, D), N places. With a window W, W places are used in a ring: token n lies in
    place n mod W, and overwrites the one that has just left the window. Rotary positions are already in the keys, so
    the order of places does not matter, and so is D^-1/4, half of the scale of scores (the queries have the other).
    Without a window the places grow. `counts` (B): tokens seen so far.
    """

    def __init__(self, keys: Tensor, values: Tensor, counts: list[int], window: int | None) -> None:
        self.keys, self.values = keys, values
        self.counts = counts
        self.window = window
        self.groups = keys.shape[1] // len(counts)
        self.nothing = keys.new_zeros(())

    @staticmethod
    def filled(layers: list[tuple[Tensor, Tensor]], counts: list[int], window: int | None) -> "KeyValues":
        """From keys and values (B, G, N, D) of each layer over prompts, of which the first `counts[b]` count."""
        batch, groups, length, width = layers[0][0].shape
        room = length + GROWTH if window is None else window
        keys, values = (layers[0][0].new_zeros(len(layers), batch, groups, room, width) for _ in range(2))
        latest = torch.from_numpy(_latest(counts, room)).to(keys.device)[:, None, :, None].expand(-1, groups, -1, width)
        for layer, states in enumerate(layers):
            # Over a window, each of its places has the latest token that belongs there.
            key, value = states if length <= room else (part.gather(2, latest) for part in states)
            torch.mul(key, width**-0.25, out=keys[layer, :, :, : key.shape[2]])
            values[layer, :, :, : value.shape[2]] = value
        return KeyValues(keys.flatten(1, 2), values.flatten(1, 2), [*counts], window)

    def adding(self, rows: Rows) -> Places:
        """A step in which each layer adds a token to `rows` and attends to all kept and the new one."""
        new = [self.counts[row] if self.window is None else self.counts[row] % self.window for row in rows]
        self._grow(max(new) + 1)
        for row in rows:
            self.counts[row] += 1
        return self._only(new[0]) if len(self.counts) == len(rows) == 1 else _places(self, rows, new)

    def reading(self, rows: Rows) -> Places:
        """A step in which `rows` attend to what is kept and add nothing."""
        return self._only(-1) if len(self.counts) == len(rows) == 1 else _places(self, rows, None)

    def _only(self, place: int) -> Places:
        """The places of a single document, without arithmetic on arrays."""
        seen = self.counts[0]
        most = seen if self.window is None else min(seen, self.window)
        return Places(most, None, None, self.nothing.new_zeros(1, 1) if most == 0 else None, place, None, None)

    def keep(self, rows: Rows) -> None:
        """Goes on with these documents only, in this order."""
        index = self.index(rows)
        self.keys, self.values = self.keys[:, index], self.values[:, index]
        self.counts = [self.counts[row] for row in rows]

    def index(self, rows: Rows) -> Tensor:
        """Where the groups of `rows` lie in `keys` and `values`: (R * G,)."""
        places = [row * self.groups + group for row in rows for group in range(self.groups)]
        return torch.tensor(places, device=self.nothing.device)

    def _grow(self, room: int) -> None:
        have = self.keys.shape[2]
        if room > have:
            more = max(GROWTH, have // 2, room - have)
            self.keys, self.values = (F.pad(states, (0, 0, 0, more)) for states in (self.keys, self.values))


def _latest(counts: list[int], window: int) -> NDArray[np.int64]:
    """(B, W): the latest token whose number leaves the remainder w, for each place w of a ring; where there is none
    yet, anything will do."""
    newest = np.array(counts)[:, None] - 1
    return np.maximum(newest - (newest - np.arange(window)) % window, 0)


def _places(cache: KeyValues, rows: Rows, new: list[int] | None) -> Places:
    """For a step of `rows`, whose new tokens go to the places `new`, if any."""
    seen = [cache.counts[row] if cache.window is None else min(cache.counts[row], cache.window) for row in rows]
    most, least = max(seen), min(seen)
    everyone = len(rows) == len(cache.counts)
    index = None if everyone else cache.index(rows)
    bias = keep = None
    if least < most:
        counts = np.array(seen)[:, None]
        hidden = (np.arange(most) >= counts) & (counts > 0)
        dense = torch.zeros(hidden.shape).masked_fill_(torch.from_numpy(hidden), -torch.inf)
        bias = dense.to(cache.nothing).repeat_interleave(cache.groups, 0)[:, None]
    if least == 0:
        keep = torch.tensor([count > 0 for count in seen]).to(cache.nothing)[:, None]
    if new is None:
        return Places(most, index, bias, keep, -1, None, None)
    if everyone and min(new) == max(new):
        return Places(most, index, bias, keep, new[0], None, None)
    each = torch.tensor(new, device=cache.nothing.device).repeat_interleave(cache.groups)
    return Places(most, index, bias, keep, -1, cache.index(rows) if index is None else index, each)
