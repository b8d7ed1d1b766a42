"""The words of recorded speech, by voice and spelling, and which of them say a text.

A word's units reach up to the start of the next word, so that the pause after it stays with it. A word is known by its
letters and digits (`word_key`); what it sounds like at its end depends on what follows it, so the pauses that
punctuation stands for are matched as well.
"""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lst.data.stage import plain, word_key
from lst.errors import LstError
from lst.manifest import Manifest, read_table

Readings = Literal["typical", "varied"]

MIN_WORDS = 4
"""Shorter sentences are said everywhere: that one stands in the validation split holds nothing out."""

_COMPARED = 16  # readings among which the most typical one is sought
_TRIED = 12  # readings that are tried in one place, of frequent words
_SENTENCE_END = re.compile(r"""(?:(?<=[.!?])|(?<=[.!?]["”’']))\s+(?=["“‘'(]*[^\W_a-z])""")


def sentences_of(text: str) -> list[str]:
    """Sentences of a text: they end with `.`, `!` or `?`, and no small letter follows."""
    return [part for part in _SENTENCE_END.split(text.strip()) if part]


def pause_of(word: str) -> int:
    """What follows a word: 0 nothing, 1 a short pause, 2 the end of a sentence."""
    bare = word.rstrip("\"')]”’")
    return 2 if bare.endswith((".", "!", "?", "…")) else 1 if bare.endswith((",", ";", ":", "-", "–", "—")) else 0


class WordBank:
    """All words of the training rows of a `lst.pairs` manifest; word `i` of the bank is entry `i` of its arrays.

    Attributes:
        units: units of all rows, one after the other, `(n,)` uint16.
        starts, ends, stops: where word `i` starts, where it ends, and where the pause after it ends, in `units`.
        scores: how sure the aligner was of it.
        keys: spelling (`word_key`) -> its number.
        speakers: names of the speakers; `voices` are the numbers of those who can lend a voice, sorted by name.
        held_out: sentences of at least `MIN_WORDS` words in rows of other splits, without case and punctuation.
    """

    def __init__(self, pairs: Manifest, voice_words: int) -> None:
        """Read `pairs`. Raises LstError if no speaker has `voice_words` words in rows of split train."""
        tables = [read_table(pairs, shard) for shard in range(len(pairs.shards))]
        self.held_out = frozenset(
            plain(sentence.split())
            for table in tables
            for text, split in zip(table["text"].to_pylist(), table["split"].to_pylist(), strict=True)
            if split != "train"
            for sentence in sentences_of(text)
            if len(sentence.split()) >= MIN_WORDS
        )
        self.keys: dict[str, int] = {}
        self.speakers: list[str] = []
        self._read(tables)
        counts = np.bincount(self._voice, minlength=len(self.speakers))
        self.voices = sorted(np.flatnonzero(counts >= voice_words).tolist(), key=self.speakers.__getitem__)
        if not self.voices:
            most = f"the most are {counts.max():,}" if len(self._voice) else "there are no training rows with words"
            raise LstError(
                f"No speaker of {pairs.path} has {voice_words:,} words of training speech: {most}.",
                hint="Ask for fewer with --voice-words (voice_words in a recipe).",
            )
        # Words in the order of (voice, spelling) and of spelling alone: candidates are then one slice.
        code = self._voice * len(self.keys) + self._key
        self._by_voice = np.argsort(code, kind="stable")
        self._codes = code[self._by_voice]
        self._by_key = np.argsort(self._key, kind="stable")
        self._sorted_keys = self._key[self._by_key]
        names = list(self.keys)
        self._first_letter = np.array([ord(name[0]) if name else 0 for name in names])
        self._last_letter = np.array([ord(name[-1]) if name else 0 for name in names])
        self._typical: dict[tuple[int, int, int], int] = {}

    def _read(self, tables: Sequence[Any]) -> None:
        """Fill the arrays from Arrow tables of pairs, without a Python object per unit."""
        import pyarrow as pa
        import pyarrow.compute as pc

        speech = pa.concat_tables(tables).select(["units", "speaker", "words", "split"])
        speech = speech.filter(pc.equal(speech["split"], "train"))
        row_units = pc.list_value_length(speech["units"]).to_numpy().astype(np.int64)
        row_words = pc.list_value_length(speech["words"]).to_numpy().astype(np.int64)
        self.units: NDArray[np.uint16] = pc.list_flatten(speech["units"]).to_numpy()
        words = pc.list_flatten(speech["words"])
        start, end, score = (pc.struct_field(words, name).to_numpy() for name in ("start", "end", "score"))
        self.scores: NDArray[np.float32] = score
        self._row = np.repeat(np.arange(len(row_words)), row_words)
        row_ends = np.cumsum(row_units)[self._row]
        base = row_ends - row_units[self._row]
        self.starts: NDArray[np.int64] = base + start
        self.ends: NDArray[np.int64] = base + end
        self.stops: NDArray[np.int64] = row_ends.copy()
        goes_on = self._row[1:] == self._row[:-1]
        self.stops[:-1][goes_on] = self.starts[1:][goes_on]
        spelt = pc.struct_field(words, "text").combine_chunks().dictionary_encode()
        texts = spelt.dictionary.to_pylist()
        numbers = [self.keys.setdefault(word_key(text), len(self.keys)) for text in texts]
        place = spelt.indices.to_numpy()
        self._key = np.array(numbers, dtype=np.int64)[place]
        self._pause = np.array([pause_of(text) for text in texts], dtype=np.int64)[place]
        spoken_by = speech["speaker"].combine_chunks().dictionary_encode()
        self.speakers = spoken_by.dictionary.to_pylist()
        self._voice = spoken_by.indices.to_numpy().astype(np.int64)[self._row]

    def says(self, words: Sequence[str]) -> bool:
        """Whether each of `words` is in the bank, by whomever."""
        return all(word_key(word) in self.keys for word in words)

    def choose(self, words: Sequence[str], voice: int, readings: Readings, random: np.random.Generator) -> list[int]:
        """Words of the bank that say `words`, which it has, in `voice` wherever that has them.

        `typical`: the same word before the same pause is always the same reading, the most typical one.
        `varied`: what follows each other in the source stays together; else the reading is taken whose neighbours are
        most like those that it gets, by their letters at the join and by chance.
        """
        keys = [self.keys[word_key(word)] for word in words]
        pauses = [pause_of(word) for word in words]
        if readings == "typical":
            return [self.typical(voice, key, pause) for key, pause in zip(keys, pauses, strict=True)]
        chosen: list[int] = []
        for place, key in enumerate(keys):
            follows = chosen[-1] + 1 if chosen else len(self._key)
            if (
                follows < len(self._key)
                and self._row[follows] == self._row[follows - 1]
                and (self._voice[follows], self._key[follows], self._pause[follows]) == (voice, key, pauses[place])
            ):
                chosen.append(follows)
                continue
            before = keys[place - 1] if place else None
            after = keys[place + 1] if place + 1 < len(keys) else None
            chosen.append(self._best_fit(self._candidates(voice, key), before, after, pauses[place], random))
        return chosen

    def typical(self, voice: int, key: int, pause: int) -> int:
        """The most typical reading: that which shares most pairs of units with the other readings (their medoid)."""
        name = (voice, key, pause)
        if name not in self._typical:
            found = self._candidates(voice, key)
            same = found[self._pause[found] == pause]
            found = same if len(same) else found
            if len(found) > _COMPARED:
                found = found[:: len(found) // _COMPARED][:_COMPARED]
            pairs = [_unit_pairs(self.units[self.starts[word] : self.ends[word]].tolist()) for word in found]
            shared = [sum(_overlap(mine, other) for other in pairs) for mine in pairs]
            self._typical[name] = int(found[int(np.argmax(shared))])
        return self._typical[name]

    def _candidates(self, voice: int, key: int) -> NDArray[np.int64]:
        """Readings of a spelling: the voice's own, or everybody's if it has none."""
        code = voice * len(self.keys) + key
        low, high = np.searchsorted(self._codes, (code, code + 1))
        if high > low:
            return self._by_voice[low:high]
        low, high = np.searchsorted(self._sorted_keys, (key, key + 1))
        return self._by_key[low:high]

    def _best_fit(
        self, found: NDArray[np.int64], before: int | None, after: int | None, pause: int, random: np.random.Generator
    ) -> int:
        """The one of `found` that stood in the source most as it is to stand: between `before` and `after`."""
        if len(found) > _TRIED:
            found = found[random.integers(0, len(found), _TRIED)]
        fit = 2.0 * (self._pause[found] == pause) + 0.5 * random.random(len(found))
        left = np.maximum(found - 1, 0)
        has_left = (found > 0) & (self._row[left] == self._row[found])
        if before is None:
            fit += ~has_left
        else:
            fit += has_left & (self._last_letter[self._key[left]] == self._last_letter[before])
        if after is not None:
            right = np.minimum(found + 1, len(self._key) - 1)
            has_right = (right > found) & (self._row[right] == self._row[found])
            fit += has_right & (self._first_letter[self._key[right]] == self._first_letter[after])
            fit += has_right & (self._key[right] == after)
        return int(found[int(np.argmax(fit))])


def _unit_pairs(units: list[int]) -> Counter[tuple[int, int]]:
    return Counter(itertools.pairwise(units)) if len(units) > 1 else Counter([(units[0], units[0])])


def _overlap(mine: Counter[tuple[int, int]], other: Counter[tuple[int, int]]) -> float:
    """Twice the pairs in common, per pair of both (Dice)."""
    return 2 * (mine & other).total() / (mine.total() + other.total())
