"""Randomness that depends on names, not on history: every draw is a function of (seed, epoch, row id).

The draws of a row come from SHAKE-256 of its name: the same on every machine, for every Python and numpy version and
world size, and five times cheaper than setting up a numpy generator per row.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray


def uniforms(count: int, *name: str | int) -> list[float]:
    """`count` uniform draws in [0, 1) that belong to `name`, e.g. `uniforms(3, "spans", seed, epoch, row_id)`."""
    digest = hashlib.shake_256(_bytes(name)).digest(8 * count)
    draws: list[float] = ((np.frombuffer(digest, dtype="<u8") >> np.uint64(11)) * 2.0**-53).tolist()
    return draws


def generator(*name: str | int) -> np.random.Generator:
    """A numpy generator (Philox) that belongs to `name`, for draws whose number is not known beforehand."""
    key = np.frombuffer(hashlib.sha256(_bytes(name)).digest()[:16], dtype="<u8")
    return np.random.Generator(np.random.Philox(key=key))


class Permutation:
    """A pseudo-random permutation of 0 .. size-1 that is computed, not stored: O(1) memory at any size.

    A Feistel network over the smallest even number of bits that holds `size`, walked until the image is in range
    (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002): at most four steps on average.
    """

    ROUNDS = 6

    def __init__(self, size: int, *name: str | int) -> None:
        self.size = size
        self._half = np.uint64(max(1, ((max(size, 2) - 1).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        digest = hashlib.shake_256(_bytes(("permutation", *name))).digest(8 * self.ROUNDS)
        self._keys = np.frombuffer(digest, dtype="<u8").astype(np.uint64)

    def __call__(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Images `(n,)` int64 of `positions` `(n,)`, each in 0 .. size-1."""
        values = self._encrypt(np.asarray(positions).astype(np.uint64))
        outside = np.flatnonzero(values >= self.size)
        while outside.size:
            values[outside] = self._encrypt(values[outside])
            outside = outside[values[outside] >= self.size]
        return values.astype(np.int64)

    def _encrypt(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right + key) & self._mask)
        return (left << self._half) | right


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of splitmix64: every input bit moves every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _bytes(name: tuple[str | int, ...]) -> bytes:
    # Lengths in front keep ("a|b", "c") and ("a", "b|c") apart.
    return b"".join(b"%d:%s" % (len(part), part) for part in (str(item).encode() for item in name))
