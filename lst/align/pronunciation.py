"""Pronunciations of English words: the dictionary of the pocketsphinx package, then letter-to-sound rules."""

import re
from collections.abc import Sequence
from functools import cache, cached_property, lru_cache
from pathlib import Path

from lst.align.letters import Chunk, LetterToSound, load_letters
from lst.text.normalise import fold

_SIBILANTS = frozenset(["S", "Z", "SH", "ZH", "CH", "JH"])
_VOICELESS = frozenset(["P", "T", "K", "F", "TH"])
_MOST_VARIANTS = 6
_SPELLED_LETTERS = 4


class Lexicon:
    """Word -> pronunciations."""

    def __init__(self, dictionary: Path, letters: LetterToSound | None = None) -> None:
        self._path = dictionary
        self._rules = letters

    @cached_property
    def _lines(self) -> dict[str, list[str]]:
        # Lines stay unparsed: of 126,000 words a corpus uses few.
        found: dict[str, list[str]] = {}
        with self._path.open(encoding="ascii") as lines:
            for line in lines:
                word, _, phones = line.rstrip().partition(" ")
                if word.endswith(")"):
                    word = word[: word.rindex("(")]
                found.setdefault(word, []).append(phones)
        return found

    def known(self, word: str) -> bool:
        """Whether the dictionary has the word, as it is or without its diacritics."""
        return word in self._lines or fold(word) in self._lines

    @lru_cache(maxsize=65536)  # noqa: B019 - one lexicon lives as long as its process
    def pronounce(self, word: str) -> tuple[Chunk, ...]:
        """Pronunciations of a spoken word (lower case), the dictionary's first; none if it cannot be read at all."""
        return tuple(dict.fromkeys(self._look_up(word)))[:_MOST_VARIANTS]

    def _look_up(self, word: str) -> list[Chunk]:
        plain = re.sub(r"[^a-z']", "", fold(word))
        for form in (word, plain, plain.strip("'")):
            if form in self._lines:
                return [tuple(phones.split()) for phones in self._lines[form]]
        plain = plain.strip("'")
        if plain.endswith("'s") and plain[:-2]:
            return [_possessive(phones) for phones in self.pronounce(plain[:-2])]
        bare = plain.replace("'", "")
        if not bare:
            return []
        rules = self._rules or load_letters()
        found = rules.pronounce(bare) or self._spell(bare)
        if len(bare) <= _SPELLED_LETTERS and bare not in self._lines:
            found = [*found, *self._spell(bare)]  # it may be an acronym
        return found

    def _spell(self, word: str) -> list[Chunk]:
        """Letter by letter, for what no rule can read (very long words included)."""
        named: Sequence[list[str]] = [self._lines.get(f"{letter}.", self._lines.get(letter, [])) for letter in word]
        return [tuple(phone for lines in named for phone in (lines[0].split() if lines else ()))]


def _possessive(phones: Chunk) -> Chunk:
    if phones[-1] in _SIBILANTS:
        return (*phones, "IH", "Z")
    return (*phones, "S" if phones[-1] in _VOICELESS else "Z")


@cache
def english_lexicon() -> Lexicon:
    """The dictionary in the pocketsphinx package with the shipped rules."""
    from lst.align.sphinx_model import dictionary_path

    return Lexicon(dictionary_path())
