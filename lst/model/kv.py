"""Keys and values of past tokens, for attention one token at a time."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lst.model.attention import Attend

Rows = NDArray[np.int64]

GROWTH = 256
"""Places added at least when a cache without a window is full; it also grows by half, so copies stay rare."""


class KeyValues:
    """Keys and values of a stack of layers, for B documents that grow at their own pace.

    With a window W, W places are used in a ring: token n lies in place n mod W, and overwrites the one that has just
    left the window. Rotary positions are already in the keys, so the order of places does not matter. Without a window
    the places grow. `counts` (B,): tokens seen so far, kept on the host.
    """

    def __init__(self, keys: list[Tensor], values: list[Tensor], counts: Rows, window: int | None) -> None:
        self.keys, self.values = keys, values
        self.counts = counts
        self.window = window

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
                return states.new_zeros(batch, groups, room, width)
            return states.gather(2, taken[:, None, :, None].expand(-1, groups, -1, width))

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
        index = torch.from_numpy(rows).to(self.keys[0].device)
        self.keys = [states[index] for states in self.keys]
        self.values = [states[index] for states in self.values]
        self.counts = self.counts[rows]

    def _grow(self, room: int) -> None:
        have = self.keys[0].shape[2]
        if room <= have:
            return
        more = max(GROWTH, have // 2, room - have)
        for states in (self.keys, self.values):
            for layer, old in enumerate(states):
                batch, groups, _, width = old.shape
                states[layer] = torch.cat([old, old.new_zeros(batch, groups, more, width)], dim=2)


class Step:
    """One token of some rows through all layers: what the layers share is worked out once."""

    def __init__(self, cache: KeyValues, rows: Rows, places: Rows | None) -> None:
        self.cache = cache
        counts = cache.counts[rows]
        if cache.window is not None:
            counts = np.minimum(counts, cache.window)
        device = cache.keys[0].device
        everyone = len(rows) == len(cache.counts) and bool((rows == np.arange(len(rows))).all())
        self.rows = None if everyone else torch.from_numpy(rows).to(device)
        self.most, least = int(counts.max()), int(counts.min())
        self.visible: Tensor | None = None
        if least < self.most:
            visible = (np.arange(self.most) < counts[:, None]) | (counts == 0)[:, None]
            self.visible = torch.from_numpy(visible)[:, None, None].to(device)
        # A row that sees nothing would be 0/0: it sees everything above, and its output is taken away.
        self.keep = torch.from_numpy(counts > 0)[:, None, None, None].to(device) if least == 0 else None
        self.place: int | tuple[Tensor, Tensor] | None = None
        if places is not None:
            same = everyone and bool((places == places[0]).all())
            index = torch.from_numpy(rows).to(device), torch.from_numpy(places).to(device)
            self.place = int(places[0]) if same else index

    def layer(self, number: int) -> Attend:
        """Attention of layer `number`: adds the new key and value, then reads."""

        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            self.write(number, key, value)
            return self.read(number, query)

        return attend

    def write(self, number: int, key: Tensor, value: Tensor) -> None:
        """Puts `key` and `value` (R, G, 1, D) in the new token's place."""
        keys, values = self.cache.keys[number], self.cache.values[number]
        if isinstance(self.place, int):
            keys[:, :, self.place] = key[:, :, 0]
            values[:, :, self.place] = value[:, :, 0]
        elif self.place is not None:
            rows, places = self.place
            keys[rows, :, places] = key[:, :, 0]
            values[rows, :, places] = value[:, :, 0]

    def read(self, number: int, query: Tensor) -> Tensor:
        """Attention of `query` (R, H, 1, D) to what is kept, (R, H, 1, D); 0 where that is nothing."""
        if self.most == 0:
            return torch.zeros_like(query)
        keys, values = self.cache.keys[number][:, :, : self.most], self.cache.values[number][:, :, : self.most]
        if self.rows is not None:
            keys, values = keys[self.rows], values[self.rows]
        # Query heads that share a key head stand as several queries of it: nothing is repeated.
        grouped = query.reshape(query.shape[0], keys.shape[1], -1, query.shape[-1])
        out = scaled_dot_product_attention(grouped, keys, values, attn_mask=self.visible).view_as(query)
        return out if self.keep is None else out * self.keep.to(out.dtype)
