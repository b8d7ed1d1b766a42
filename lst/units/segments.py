"""What a HuBERT is trained on: recordings laid end to end, disturbed, and the clusters of the clean sound.

Step k is a function of the seed and of k alone, so a run resumes anywhere without a state. In every epoch the
utterances are put in a new order and laid end to end; a step takes the next `frames` of that line, as rows of 2, 4, 8
or 16 s. There is no padding. The targets come from the clean recording; what the network hears is disturbed, so it
learns to give the same units for it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from lst.constants import SAMPLE_RATE, SAMPLES_PER_FRAME
from lst.units.codecs import add_codec

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROW_FRAMES = (50, 100, 200, 400)
"""Lengths of rows: 2 to 16 s, so that short and long audio are both met."""


@dataclass(frozen=True)
class Corpus:
    """Recordings on the 40 ms grid. `audio`: (frames, 640) int16; `targets`, `phones`: (frames,) int16, < 0 if unknown.

    Utterance i is frames `starts[i]` to `starts[i] + lengths[i]`.
    """

    audio: "NDArray[np.int16]"
    targets: "NDArray[np.int16]"
    starts: "NDArray[np.int64]"
    lengths: "NDArray[np.int64]"
    phones: "NDArray[np.int16]"

    @property
    def frames(self) -> int:
        """Of all utterances."""
        return int(self.lengths.sum())


@dataclass(frozen=True)
class Batch:
    """`samples`: (B, 640 T) float32; `targets`, `phones`: (B, T); `band_gain`, `band_places`: (B, bands) float32."""

    samples: "NDArray[np.float32]"
    targets: "NDArray[np.int64]"
    phones: "NDArray[np.int64]"
    band_gain: "NDArray[np.float32]"
    band_places: "NDArray[np.float32]"


class Segments:
    """The steps of a run over a corpus. `frames` per step must be a multiple of 400.

    `codec`: the share of rows that, disturbed otherwise, go through a codec as well (`lst.units.codecs`).
    """

    def __init__(
        self, corpus: Corpus, frames: int, bands: int, seed: int, *, disturb: bool = True, codec: float = 0.0
    ) -> None:
        self.corpus = corpus
        self.frames = frames
        self._bands = bands
        self._seed = seed
        self._disturb = disturb
        self._codec = codec
        self._order = lru_cache(maxsize=2)(self._order_of)

    def __getitem__(self, step: int) -> Batch:
        """The batch of step `step`, counted from 0."""
        random = np.random.default_rng([self._seed, 1, step])
        length = int(random.choice(ROW_FRAMES))
        rows = [self._row(step * self.frames + first, length, random) for first in range(0, self.frames, length)]
        samples = np.stack([row[0] for row in rows])
        frames = np.stack([row[1] for row in rows])
        targets, phones = (of[frames].astype(np.int64) for of in (self.corpus.targets, self.corpus.phones))
        if not self._disturb:
            as_they_are = np.tile(np.arange(self._bands, dtype=np.float32), (len(rows), 1))
            return Batch(samples, targets, phones, np.ones_like(as_they_are), as_they_are)
        add_noise(samples, random)
        if self._codec:  # its own generator: the rest is the same with and without
            add_codec(samples, self._codec, np.random.default_rng([self._seed, 4, step]))
        gains = band_gains(len(rows), self._bands, random)
        return Batch(samples, targets, phones, gains, band_places(len(rows), self._bands, random))

    def _row(
        self, position: int, length: int, random: np.random.Generator
    ) -> "tuple[NDArray[np.float32], NDArray[np.int64]]":
        """`length` frames of the line from `position` on, and which they are.

        Two in five up to 12% faster or slower, pitch included.
        """
        speed = float(random.uniform(0.88, 1.12)) if self._disturb and random.random() < 0.4 else 1.0
        epoch, start = divmod(position, self.corpus.frames)
        line = self._order(epoch)
        frames = line[(start + np.arange(int(np.ceil(length * speed)) + 1)) % len(line)]
        samples = self.corpus.audio[frames].reshape(-1).astype(np.float32) / np.float32(32768)
        if speed == 1.0:
            samples = samples[: length * SAMPLES_PER_FRAME]
        else:
            moments = np.arange(length * SAMPLES_PER_FRAME) * speed
            samples = np.interp(moments, np.arange(len(samples)), samples).astype(np.float32)
        source = frames[((np.arange(length) + 0.5) * speed).astype(np.int64)]
        return samples, source

    def _order_of(self, epoch: int) -> "NDArray[np.int64]":
        """(frames,) the frames of the corpus in the order of this epoch."""
        order = np.random.default_rng([self._seed, 0, epoch]).permutation(len(self.corpus.starts))
        return np.concatenate([self.corpus.starts[i] + np.arange(self.corpus.lengths[i]) for i in order])


def plain_segments(
    corpus: Corpus, length: int, count: int
) -> "Iterator[tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]]":
    """The first `count` undisturbed stretches of `length` frames: for validation."""
    line = np.concatenate([start + np.arange(size) for start, size in zip(corpus.starts, corpus.lengths, strict=True)])
    for first in range(0, min(count, len(line) // length) * length, length):
        frames = line[first : first + length]
        samples = corpus.audio[frames].reshape(-1).astype(np.float32) / 32768
        yield samples, corpus.targets[frames].astype(np.int64), corpus.phones[frames].astype(np.int64)


def add_noise(samples: "NDArray[np.float32]", random: np.random.Generator) -> None:
    """Seven in ten rows (B, n) get noise, half of it white, or another row's speech, 5 to 35 dB below them."""
    pool = _noise_pool()
    clean = samples.copy()
    loudness = np.sqrt((clean**2).mean(axis=1)) + 1e-4
    for index, row in enumerate(samples):
        if random.random() >= 0.7:
            continue
        kind = int(random.choice(4, p=(0.5, 0.2, 0.1, 0.2)))
        if kind < len(pool):
            start = int(random.integers(pool.shape[1]))
            noise = np.take(pool[kind], np.arange(start, start + len(row)), mode="wrap")
        else:
            other = int(random.integers(len(samples)))
            noise = clean[other] / loudness[other]
        decibels = float(random.uniform(5, 35))
        row += noise * np.float32(loudness[index] * 10 ** (-decibels / 20))


def band_gains(rows: int, bands: int, random: np.random.Generator) -> "NDArray[np.float32]":
    """(rows, bands) factors on mel power: gain of +-10 dB, a smooth colouring of a few dB, sometimes a band limit."""
    places = np.linspace(0, 1, bands)
    decibels = random.uniform(-10, 10, (rows, 1)) + random.uniform(-4, 4, (rows, 1)) * (places - 0.5)
    for _ in range(2):
        waves = random.uniform(0.5, 3, (rows, 1)) * places + random.uniform(0, 1, (rows, 1))
        decibels = decibels + random.uniform(0, 2, (rows, 1)) * np.sin(2 * np.pi * waves)
    # 0.76 of the mel scale is 4 kHz, what a telephone or 8 kHz audio keeps; 0.69 is 3.2 kHz.
    limit = np.where(random.random((rows, 1)) < 0.15, random.uniform(0.69, 1.0, (rows, 1)), 2.0)
    decibels = np.where(places > limit, -60.0, decibels)
    # Like SpecAugment (Park et al. 2019): a stretch of bands is missing in three rows of ten.
    start, width = random.integers(0, bands, (rows, 1)), random.integers(1, bands // 6 + 1, (rows, 1))
    inside = (np.arange(bands) >= start) & (np.arange(bands) < start + width) & (random.random((rows, 1)) < 0.3)
    decibels = np.where(inside, -60.0, decibels)
    gains: NDArray[np.float32] = (10 ** (decibels / 10)).astype(np.float32)
    return gains


def band_places(rows: int, bands: int, random: np.random.Generator) -> "NDArray[np.float32]":
    """(rows, bands) the band heard in the place of each: six rows of ten get another length of the vocal tract.

    All frequencies by one factor of 0.87 to 1.15 (Jaitly and Hinton 2013), on the mel scale of `lst.units.logmel`.
    """
    factor = np.where(random.random((rows, 1)) < 0.6, np.exp(random.uniform(-0.14, 0.14, (rows, 1))), 1.0)
    lowest, highest = (_mel(np.array(hertz)) for hertz in (20.0, SAMPLE_RATE / 2))
    step = (highest - lowest) / (bands + 1)
    hertz = 700 * (10 ** ((lowest + step * np.arange(1, bands + 1)) / 2595) - 1)
    places: NDArray[np.float32] = ((_mel(hertz * factor) - lowest) / step - 1).clip(0, bands - 1).astype(np.float32)
    return places


def _mel(hertz: "NDArray[np.float64]") -> "NDArray[np.float64]":
    return np.asarray(2595 * np.log10(1 + hertz / 700))


@lru_cache(maxsize=1)
def _noise_pool() -> "NDArray[np.float32]":
    """(3, 30 s) white, pink and brown noise of unit power."""
    size = 30 * SAMPLE_RATE
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(size))
    frequency = np.maximum(np.arange(len(spectrum)), 20)
    noises = np.stack([np.fft.irfft(spectrum / frequency**slope, size) for slope in (0.0, 0.5, 1.0)])
    pool: NDArray[np.float32] = (noises / noises.std(axis=1, keepdims=True)).astype(np.float32)
    return pool
