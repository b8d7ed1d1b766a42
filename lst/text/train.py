"""A text tokenizer trained on the spot, in the manner of Llama-2's: BPE with byte fallback and single digits."""

import io
import itertools
import re
import string
from collections.abc import Iterable, Iterator

from lst.errors import LstError

_LONGEST_LINE = 4000  # bytes; SentencePiece silently skips lines above 4192


def train_tokenizer(texts: Iterable[str], vocab_size: int, *, max_bytes: int = 64 << 20) -> bytes:
    """Train a SentencePiece BPE of `vocab_size` pieces on texts and return the serialized model.

    As Llama-2's: no normalisation, every digit a piece of its own, unknown characters as bytes, ids 0 <unk>, 1 <s>,
    2 </s>. The first `max_bytes` of text count (memory is proportional to it). One thread and no sampling: the same
    texts give the same bytes on any machine. Raises LstError if there is no text or too little for so many pieces.
    """
    import sentencepiece

    lines = _lines(texts, max_bytes)
    first = next(lines, None)
    if first is None:
        raise LstError("There is no text to train a tokenizer on.")
    sink = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=itertools.chain([first], lines),
            model_writer=sink,
            vocab_size=vocab_size,
            model_type="bpe",
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            character_coverage=0.99995,
            # Rare characters become bytes; those of plain English never do, however small the corpus.
            required_chars="".join(c for c in string.printable if not c.isspace()),
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        message = str(error)
        limit = re.search(r"value <= (\d+)", message)
        if limit:
            raise LstError(
                f"The text is too small for a tokenizer of {vocab_size} pieces: at most {limit.group(1)} are possible.",
                hint="Give more text, or a smaller --train-tokenizer.",
            ) from error
        needed = re.search(r"\d+ vs (\d+)", message)
        if needed:
            raise LstError(
                f"A tokenizer of {vocab_size} pieces cannot hold the bytes and characters of this text: "
                f"it needs at least {needed.group(1)}.",
                hint="Give a larger --train-tokenizer, such as 4096.",
            ) from error
        raise LstError(f"Training the text tokenizer failed: {message}.") from error
    return sink.getvalue()


def _lines(texts: Iterable[str], max_bytes: int) -> Iterator[str]:
    """Lines of at most `_LONGEST_LINE` bytes, blank ones left out."""
    used = 0
    for text in texts:
        for line in text.splitlines():
            for start in range(0, len(line), _LONGEST_LINE // 4):
                piece = line[start : start + _LONGEST_LINE // 4]
                used += len(piece.encode())
                if used > max_bytes:
                    return
                if piece.strip():
                    yield piece
