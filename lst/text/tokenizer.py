"""Text tokens: a SentencePiece model, the user's (Llama-2's `tokenizer.model`) or one trained on the spot."""

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from lst.errors import LstError

TOKENIZER_FILE = "tokenizer.model"
"""Name of the SentencePiece model among a manifest's artifacts and in a model directory."""

_WORD_CACHE = 1 << 16
_SPACE = "▁"  # SentencePiece's visible space
_ANCHOR = "a"


class TextTokenizer:
    """Text to token ids and back, by one SentencePiece model.

    No beginning or end token is added: markers are the business of whoever lays out a sequence. Instances pickle.

    Attributes:
        fingerprint: SHA-256 (hex) of the model file: what a text manifest, pairs and a language model must agree on.
        vocab_size: number of ids; every id is in 0 .. vocab_size - 1.
        bos_id, eos_id: ids of the model's own control pieces, -1 where it has none.
    """

    def __init__(self, model: bytes, *, name: str = TOKENIZER_FILE) -> None:
        """Use a serialized SentencePiece model. Raises LstError if `model` is not one; `name` is for that message."""
        import sentencepiece

        processor = sentencepiece.SentencePieceProcessor()
        hint = "Give a SentencePiece .model file, such as Llama-2's tokenizer.model."
        try:
            processor.LoadFromSerializedProto(model)
        except (RuntimeError, TypeError, ValueError) as error:
            raise LstError(f"{name} is not a SentencePiece model.", hint=hint) from error
        if processor.vocab_size() == 0:  # an empty file parses as an empty model
            raise LstError(f"{name} is a SentencePiece model without any piece.", hint=hint)
        self._model = model
        self._processor = processor
        self.fingerprint: str = hashlib.sha256(model).hexdigest()
        self.vocab_size: int = int(processor.vocab_size())
        self.bos_id: int = int(processor.bos_id())
        self.eos_id: int = int(processor.eos_id())
        # Without a dummy prefix, a word inside a sentence is encoded differently from the first one.
        anchor = processor.encode(_ANCHOR)
        self._anchor_length = len(anchor)
        self._adds_space = bool(anchor) and processor.id_to_piece(anchor[0]).startswith(_SPACE)
        self._word: Callable[[str, bool], tuple[int, ...]] = lru_cache(_WORD_CACHE)(self._encode_word)

    @classmethod
    def from_file(cls, path: Path | str) -> "TextTokenizer":
        """Load a SentencePiece `.model` file. Raises LstError if it is missing, unreadable or something else."""
        try:
            model = Path(path).read_bytes()
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise LstError(
                f"Cannot read the text tokenizer {path}: {reason}.", hint="Give a SentencePiece .model file."
            ) from error
        return cls(model, name=str(path))

    def __reduce__(self) -> tuple[type["TextTokenizer"], tuple[bytes]]:
        return type(self), (self._model,)

    @property
    def model(self) -> bytes:
        """The serialized model, byte for byte the file it came from."""
        return self._model

    def encode(self, text: str) -> list[int]:
        """Ids of a text, n >= 0 of them; the empty text has none."""
        return list(self._processor.encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids. Raises LstError for an id outside the vocabulary."""
        values = [int(token) for token in ids]
        wrong = [token for token in values if not 0 <= token < self.vocab_size]
        if wrong:
            raise LstError(
                f"Text token ids must lie in 0 .. {self.vocab_size - 1}, got {min(values)} .. {max(values)}."
            )
        return str(self._processor.decode(values))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The piece behind each id, for people to read (`▁` is a space, `<0x0A>` a byte)."""
        return [str(self._processor.id_to_piece(int(token))) for token in ids]

    def encode_words(self, words: Sequence[str]) -> tuple[list[int], list[tuple[int, int]]]:
        """Tokens of words joined by single spaces, and for each word its half-open range of tokens.

        The ranges tile the tokens: every token belongs to exactly one word. Words are encoded one by one, which for a
        model whose pieces do not cross spaces (the default of SentencePiece, and Llama-2) gives the same ids as the
        whole sentence; for the others it is what makes a sentence divisible. Only an empty word has an empty range.
        """
        tokens: list[int] = []
        spans = []
        for index, word in enumerate(words):
            start = len(tokens)
            if word:
                tokens.extend(self._word(word, index == 0))
            spans.append((start, len(tokens)))
        return tokens, spans

    def _encode_word(self, word: str, first: bool) -> tuple[int, ...]:
        if first or self._adds_space:
            return tuple(self._processor.encode(word))
        # Not " word" alone: a model may strip leading spaces.
        return tuple(self._processor.encode(f"{_ANCHOR} {word}")[self._anchor_length :])
