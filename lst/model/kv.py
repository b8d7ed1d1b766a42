"""Keys and values of past tokens, for attention one token at a time."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Rows = NDArray[np.int64]

GROWTH = 256
"""Places added at least when a cache without a window is full; it also grows by half, so copies stay rare."""


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

    def adding(self, rows: Rows) -> "Step":
        """A step in which each layer adds a token to `rows` and attends to all kept ones, the new one included."""
        places = self.counts[rows] if self.window is None else self.counts[rows] % self.window
        self._grow(int(places.max()) + 1)
        self.counts[rows] += 1
        return Step(self, rows, places)

    def reading(self, rows: Rows) -> "Step":
        """A step in which `rows` attend to what is kept and add nothing."""
        return Step(self, rows, None)

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


class Step:
    """One token of some rows through all layers: what the layers share is worked out once."""

    def __init__(self, cache: KeyValues, rows: Rows, places: Rows | None) -> None:
        self.cache = cache
        counts = cache.counts[rows]
        if cache.window is not None:
            counts = np.minimum(counts, cache.window)
        everyone = len(rows) == len(cache.counts) and bool((rows == np.arange(len(rows))).all())
        self.rows = None if everyone else cache.index(rows)
        self.most, least = int(counts.max()), int(counts.min())
        self.bias, self.biased = cache.nothing, 0
        if least < self.most:  # what a row does not see gets -inf, (R * G, 1, N)
            hidden = (np.arange(self.most) >= counts[:, None]) & (counts > 0)[:, None]
            bias = torch.zeros(hidden.shape).masked_fill_(torch.from_numpy(hidden), -torch.inf)
            self.bias, self.biased = bias.to(cache.nothing).repeat_interleave(cache.groups, 0)[:, None], 1
        # A row that sees nothing would be 0/0: it sees everything above, and its output is taken away.
        self.keep = torch.from_numpy(counts > 0)[:, None].to(cache.nothing) if least == 0 else None
        self.place: tuple[Any, ...] = ()
        """Where the new token goes, as an index of `keys` and `values`."""
        if places is not None:
            if everyone and (places == places[0]).all():
                self.place = slice(None), int(places[0])
            else:
                each = torch.from_numpy(np.repeat(places, cache.groups)).to(cache.nothing.device)
                self.place = cache.index(rows), each

    def write(self, number: int, key: Tensor, value: Tensor) -> None:
        """Puts `key` and `value` (R, G, D) of layer `number` in the new token's place."""
        self.cache.keys[number][self.place] = key.flatten(0, 1)
        self.cache.values[number][self.place] = value.flatten(0, 1)

    def read(self, number: int, query: Tensor) -> Tensor:
        """Attention of `query` (R, H, D) to what layer `number` keeps, (R, H * D); 0 where that is nothing."""
        rows, heads, width = query.shape
        if self.most == 0:
            return query.new_zeros(rows, heads * width)
        keys, values = self.cache.keys[number][:, : self.most], self.cache.values[number][:, : self.most]
        if self.rows is not None:
            keys, values = keys[self.rows], values[self.rows]
        # Query heads that share a key head stand as several queries of it: nothing is repeated.
        grouped = query.reshape(rows * self.cache.groups, -1, width)
        scores = torch.baddbmm(self.bias, grouped, keys.mT, beta=self.biased, alpha=width**-0.5)
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(values.dtype)
        out = torch.bmm(weights, values).view(rows, heads * width)
        return out if self.keep is None else out * self.keep
