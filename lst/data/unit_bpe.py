"""The `bpe` baseline: speech units through a SentencePiece BPE of about a thousand pieces (paper, section 4).

SentencePiece works on text, so unit u is written as the private-use character U+E000 + u. All units are single pieces
of every model, seen in training or not, so any unit sequence can be encoded and comes back unchanged.
"""

import hashlib
import io
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from lst.data.vocabulary import NUM_UNITS
from lst.errors import LstError

_FIRST = 0xE000
_MAX_UNITS = 0xF8FF - _FIRST + 1  # the private use area


class UnitBpe:
    """Units to BPE pieces and back. Instances pickle.

    Attributes:
        size: number of piece ids, 0 .. size - 1 (id 0 is SentencePiece's unknown piece, which never occurs).
        fingerprint: SHA-256 (hex) of the model.
        model: the serialized SentencePiece model, to be stored as it is.
    """

    def __init__(self, model: bytes) -> None:
        """Use a serialized model. Raises LstError if it is not one made by `train_unit_bpe`."""
        import sentencepiece

        processor = sentencepiece.SentencePieceProcessor()
        hint = "Train it again: it comes with the model that uses it."
        try:
            processor.LoadFromSerializedProto(model)
        except (RuntimeError, TypeError, ValueError) as error:
            raise LstError("This is not a unit BPE model.", hint=hint) from error
        if processor.vocab_size() == 0 or processor.piece_to_id(chr(_FIRST)) == processor.unk_id():
            raise LstError("This SentencePiece model is not one of speech units.", hint=hint)
        self._processor = processor
        self.model = model
        self.size = int(processor.vocab_size())
        self.fingerprint = hashlib.sha256(model).hexdigest()

    def __reduce__(self) -> tuple[type["UnitBpe"], tuple[bytes]]:
        return type(self), (self.model,)

    def encode(self, units: NDArray[np.uint16]) -> NDArray[np.int32]:
        """Units `(n,)` to piece ids `(m,)`, m <= n. Raises LstError for a unit that the model does not have."""
        ids = np.array(self._processor.encode(_as_text(units)), dtype=np.int32)
        if bool((ids == self._processor.unk_id()).any()):
            raise LstError(
                f"A unit up to {int(units.max())} is not in the unit BPE.",
                hint="The units come from a tokenizer with more units than the one it was trained on.",
            )
        return ids

    def decode(self, ids: NDArray[np.int32]) -> NDArray[np.uint16]:
        """Piece ids `(m,)` back to units `(n,)`. Raises LstError for an id outside the vocabulary."""
        ids = np.asarray(ids)
        if ids.size and (int(ids.min()) < 0 or int(ids.max()) >= self.size):
            raise LstError(f"Unit BPE ids must lie in 0 .. {self.size - 1}, got {int(ids.max())}.")
        text = "".join(self._processor.id_to_piece(ids.tolist())) if ids.size else ""
        codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
        return (codes[codes >= _FIRST] - _FIRST).astype(np.uint16)

    def frames(self) -> list[int]:
        """Units, of 40 ms each, behind every piece id."""
        return [len(self.decode(np.array([piece], dtype=np.int32))) for piece in range(self.size)]


def train_unit_bpe(
    sequences: Iterable[NDArray[np.uint16]],
    *,
    num_units: int = NUM_UNITS,
    size: int = 1000,
    max_sequences: int = 100_000,
) -> UnitBpe:
    """Train on the first `max_sequences` unit sequences (the paper's 100k). The same sequences give the same model.

    Raises LstError when there is nothing to train on, or when `size` cannot hold the units.
    """
    import sentencepiece

    if not num_units < size or num_units > _MAX_UNITS:
        raise LstError(f"A unit BPE of {size} pieces cannot hold {num_units} units.", hint="Use more pieces.")
    lines = [_as_text(units) for _, units in zip(range(max_sequences), sequences, strict=False) if len(units)]
    if not lines:
        raise LstError("There are no units to train a unit BPE on.")
    # Every unit once, in a line of its own: an unseen unit gets a piece, and no pair of units gains a count.
    lines += [chr(_FIRST + unit) for unit in range(num_units)]
    sink = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=sink,
            model_type="bpe",
            vocab_size=size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            split_by_unicode_script=False,
            split_by_number=False,
            split_by_whitespace=False,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            max_sentence_length=1 << 20,
            num_threads=1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise LstError(f"SentencePiece could not train a unit BPE: {error}.", hint="Give it more speech.") from error
    return UnitBpe(sink.getvalue())


def _as_text(units: NDArray[np.uint16]) -> str:
    return (np.asarray(units).astype("<u4") + _FIRST).astype("<u4").tobytes().decode("utf-32-le")
