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
    the places grow.

    `counts` (B,): tokens seen so far, on the host. Layers are written one by one, then `advance` moves on.
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

    def attend(self, layer: int, rows: Rows) -> Attend:
        """For `layer`: adds a new token's key and value, then attends to all kept ones, the new one included."""

        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            self.write(layer, rows, key, value)
            return self._read(layer, rows, query, self.counts[rows] + 1)

        return attend

    def write(self, layer: int, rows: Rows, key: Tensor, value: Tensor) -> None:
        """Puts `key` and `value` (R, G, 1, D) of the next token of `rows` in their place."""
        places = self.counts[rows] if self.window is None else self.counts[rows] % self.window
        self._grow(layer, int(places.max()) + 1)
        if self._all(rows) and (places == places[0]).all():
            at = int(places[0])
            self.keys[layer][:, :, at] = key[:, :, 0]
            self.values[layer][:, :, at] = value[:, :, 0]
            return
        index = torch.from_numpy(rows).to(key.device), torch.from_numpy(places).to(key.device)
        self.keys[layer][index[0], :, index[1]] = key[:, :, 0]
        self.values[layer][index[0], :, index[1]] = value[:, :, 0]

    def read(self, layer: int, rows: Rows, query: Tensor) -> Tensor:
        """Attention of `query` (R, H, 1, D) to what is kept, (R, H, 1, D); 0 where that is nothing."""
        return self._read(layer, rows, query, self.counts[rows])

    def advance(self, rows: Rows) -> None:
        """The token that was written for `rows` counts from now on."""
        self.counts[rows] += 1

    def keep(self, rows: Rows) -> None:
        """Goes on with these documents only, in this order."""
        index = torch.from_numpy(rows).to(self.keys[0].device)
        self.keys = [states[index] for states in self.keys]
        self.values = [states[index] for states in self.values]
        self.counts = self.counts[rows]

    def _read(self, layer: int, rows: Rows, query: Tensor, counts: Rows) -> Tensor:
        if self.window is not None:
            counts = np.minimum(counts, self.window)
        most = int(counts.max())
        if most == 0:
            return torch.zeros_like(query)
        keys, values = self.keys[layer][:, :, :most], self.values[layer][:, :, :most]
        if not self._all(rows):
            index = torch.from_numpy(rows).to(query.device)
            keys, values = keys[index], values[index]
        visible = None
        if int(counts.min()) < most:
            visible = torch.from_numpy(np.arange(most) < counts[:, None])
            visible |= torch.from_numpy(counts == 0)[:, None]  # taken away below; a row of nothing would be 0/0
            visible = visible[:, None, None].to(query.device)
        # Query heads that share a key head stand as several queries of it: nothing is repeated.
        grouped = query.reshape(query.shape[0], keys.shape[1], -1, query.shape[-1])
        out = scaled_dot_product_attention(grouped, keys, values, attn_mask=visible).view_as(query)
        if int(counts.min()) == 0:
            out = out * torch.from_numpy(counts > 0)[:, None, None, None].to(out)
        return out

    def _all(self, rows: Rows) -> bool:
        return len(rows) == len(self.counts) and bool((rows == np.arange(len(rows))).all())

    def _grow(self, layer: int, room: int) -> None:
        have = self.keys[layer].shape[2]
        if room <= have:
            return
        more = max(GROWTH, have // 2, room - have)
        for states in (self.keys, self.values):
            batch, groups, _, width = states[layer].shape
            states[layer] = torch.cat([states[layer], states[layer].new_zeros(batch, groups, more, width)], dim=2)
