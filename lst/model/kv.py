"""Keys and values of past tokens, for attention one token at a time."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Rows = NDArray[np.int64]

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

    `keys`, `values`: per layer (B * G, N, D), N places. With a window W, W places are used in a ring: token n lies in
    place n mod W, and overwrites the one that has just left the window. Rotary positions are already in the keys, so
    the order of places does not matter. Without a window the places grow. `counts` (B,): tokens seen so far, kept on
    the host.
    """

    def __init__(self, keys: list[Tensor], values: list[Tensor], counts: Rows, window: int | None) -> None:
        self.keys, self.values = keys, values
        self.counts = counts
        self.window = window
        self.groups = len(keys[0]) // len(counts)
        self.nothing = keys[0].new_zeros(())

    @staticmethod
    def filled(layers: list[tuple[Tensor, Tensor]], counts: Rows, window: int | None) -> "KeyValues":
        """From keys and values (B, G, N, D) of each layer over prompts, of which the first `counts[b]` count."""
        length = layers[0][0].shape[2]
        room = length + GROWTH if window is None else window
        place = np.arange(room)
        if window is None:
            source = np.broadcast_to(place, (len(counts), room))
        else:
            # The latest token whose index leaves the remainder `place`; where there is none yet, anything will do.
            newest = counts[:, None] - 1
            source = newest - (newest - place) % window
        taken = torch.from_numpy(np.clip(source, 0, max(0, length - 1))).to(layers[0][0].device)

        def arrange(states: Tensor) -> Tensor:
            batch, groups, _, width = states.shape
            if length == 0:
                return states.new_zeros(batch * groups, room, width)
            return states.gather(2, taken[:, None, :, None].expand(-1, groups, -1, width)).flatten(0, 1)

        return KeyValues([arrange(k) for k, _ in layers], [arrange(v) for _, v in layers], counts.copy(), window)

    def adding(self, rows: Rows) -> Places:
        """A step in which each layer adds a token to `rows` (ascending) and attends to all kept and the new one."""
        if len(self.counts) == len(rows) == 1:
            count = int(self.counts[0])
            place = count if self.window is None else count % self.window
            self._grow(place + 1)
            self.counts[0] = count + 1
            return self._only(place)
        places = self.counts[rows] if self.window is None else self.counts[rows] % self.window
        self._grow(int(places.max()) + 1)
        self.counts[rows] += 1
        return _places(self, rows, places)

    def reading(self, rows: Rows) -> Places:
        """A step in which `rows` (ascending) attend to what is kept and add nothing."""
        return self._only(-1) if len(self.counts) == len(rows) == 1 else _places(self, rows, None)

    def _only(self, place: int) -> Places:
        """The places of a single document, without arithmetic on arrays."""
        seen = int(self.counts[0])
        most = seen if self.window is None else min(seen, self.window)
        return Places(most, None, None, self.nothing.new_zeros(1, 1) if most == 0 else None, place, None, None)

    def keep(self, rows: Rows) -> None:
        """Goes on with these documents only, in this order."""
        index = self.index(rows)
        self.keys = [states[index] for states in self.keys]
        self.values = [states[index] for states in self.values]
        self.counts = self.counts[rows]

    def index(self, rows: Rows) -> Tensor:
        """Where the groups of `rows` (R,) lie in `keys` and `values`: (R * G,)."""
        return torch.from_numpy((rows[:, None] * self.groups + np.arange(self.groups)).ravel()).to(self.nothing.device)

    def _grow(self, room: int) -> None:
        have = self.keys[0].shape[1]
        if room <= have:
            return
        more = max(GROWTH, have // 2, room - have)
        for states in (self.keys, self.values):
            for layer, old in enumerate(states):
                states[layer] = torch.cat([old, old.new_zeros(len(old), more, old.shape[2])], dim=1)


def _places(cache: KeyValues, rows: Rows, new: Rows | None) -> Places:
    """For a step of `rows` (R,), whose new tokens go to the places `new` (R,), if any."""
    counts, device = cache.counts[rows], cache.nothing.device
    if cache.window is not None:
        counts = np.minimum(counts, cache.window)
    everyone = len(rows) == len(cache.counts)
    index = None if everyone else cache.index(rows)
    most, least = int(counts.max()), int(counts.min())
    bias = keep = at = place = None
    if least < most:
        hidden = (np.arange(most) >= counts[:, None]) & (counts > 0)[:, None]
        dense = torch.zeros(hidden.shape).masked_fill_(torch.from_numpy(hidden), -torch.inf)
        bias = dense.to(cache.nothing).repeat_interleave(cache.groups, 0)[:, None]
    if least == 0:
        keep = torch.from_numpy(counts > 0)[:, None].to(cache.nothing)
    if new is not None and everyone and (new == new[0]).all():
        return Places(most, index, bias, keep, int(new[0]), None, None)
    if new is not None:
        at = index if index is not None else cache.index(rows)
        place = torch.from_numpy(np.repeat(new, cache.groups)).to(device)
    return Places(most, index, bias, keep, -1, at, place)
