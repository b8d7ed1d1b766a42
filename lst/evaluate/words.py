"""Word and character error rates, and the normaliser behind them: the choice of normaliser moves WER by points.

    simple      lower case, Unicode NFKC, punctuation dropped (apostrophes inside words kept); needs nothing
    whisper     OpenAI's EnglishTextNormalizer: numbers, abbreviations, contractions, spelling. From the package
                `openai-whisper` (extra `wer`), or from `transformers` (extra `hf`), whose copy comes without the list
                of British spellings; the result's `normaliser` says which was used

`WordErrors` records the normaliser and jiwer's version beside the numbers.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Literal

from lst.errors import LstError

Normaliser = Literal["simple", "whisper", "auto"]
"""auto: whisper where it is installed, else simple."""

_NOT_WORD = re.compile(r"[^\w\s']|_")
_LOOSE_APOSTROPHE = re.compile(r"(?<!\w)'|'(?!\w)")


@dataclass(frozen=True)
class WordErrors:
    """Errors pooled over a corpus: `wer` and `cer` are total errors over total reference words and characters.

    Both can exceed 1: a recogniser that does not stop inserts without end.
    """

    wer: float
    cer: float
    words: int
    characters: int
    substitutions: int
    deletions: int
    insertions: int
    normaliser: str
    jiwer: str


def simple_normalise(text: str) -> str:
    """Lower case, NFKC, no punctuation but apostrophes inside words, single spaces: `Don't STOP!` -> `don't stop`."""
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    return " ".join(_LOOSE_APOSTROPHE.sub(" ", _NOT_WORD.sub(" ", text)).split())


@cache
def load_normaliser(name: Normaliser = "auto") -> tuple[str, Callable[[str], str]]:
    """The normaliser's full name, for the record, and the function. Raises LstError if it is not installed."""
    if name == "simple":
        return "simple", simple_normalise
    if find_spec("whisper") is not None:
        normalisers = import_module("whisper.normalizers")
        return f"whisper (openai-whisper {version('openai-whisper')})", normalisers.EnglishTextNormalizer()
    if find_spec("transformers") is not None:
        normalisers = import_module("transformers.models.whisper.english_normalizer")
        return (
            f"whisper (transformers {version('transformers')}, without spellings)",
            normalisers.EnglishTextNormalizer({}),
        )
    if name == "auto":
        return "simple", simple_normalise
    raise LstError("OpenAI's text normaliser is not installed.", hint="Install lst's extra wer, or use simple.")


def word_errors(references: Sequence[str], hypotheses: Sequence[str], *, normaliser: Normaliser = "auto") -> WordErrors:
    """Compare transcripts with their references, pooled over all. Raises LstError if the numbers of texts differ."""
    import jiwer

    if len(references) != len(hypotheses):
        raise LstError(f"{len(references)} references but {len(hypotheses)} transcripts.")
    name, normalise = load_normaliser(normaliser)
    pairs = [(normalise(reference), normalise(other)) for reference, other in zip(references, hypotheses, strict=True)]
    right, heard = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if not any(right):
        raise LstError("There are no reference words to compare with.", hint="Check the texts of the recordings.")
    words, characters = jiwer.process_words(right, heard), jiwer.process_characters(right, heard)
    total = words.hits + words.substitutions + words.deletions
    letters = characters.hits + characters.substitutions + characters.deletions
    return WordErrors(
        wer=(words.substitutions + words.deletions + words.insertions) / total,
        cer=(characters.substitutions + characters.deletions + characters.insertions) / letters,
        words=total,
        characters=letters,
        substitutions=words.substitutions,
        deletions=words.deletions,
        insertions=words.insertions,
        normaliser=name,
        jiwer=version("jiwer"),
    )
