"""One id space for everything the model reads and writes: text pieces, then control tokens, then speech units.

    0 .. text_size-1                     text pieces (SentencePiece ids, unchanged)
    text_size .. text_size+7             controls: <pad> <t> <s> <end> <asr> <tts> <r0> <r1>
    unit_offset .. size-1                speech units (501 by default)

Keeping text ids where the SentencePiece model has them lets a text language model's embedding be copied in as it is.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lst.errors import LstError

NUM_UNITS = 501
"""Speech units of every tokenizer that lst reads (500 and the blank of Spirit LM's; design, section 3)."""


@dataclass(frozen=True)
class Vocabulary:
    """The id space of one model. Two models share ids exactly when `text_size` and `num_units` are equal.

    `text_size`: number of text pieces; `num_units`: number of speech units (501, or the size of a unit BPE).
    Raises `LstError` when either is not positive.
    """

    text_size: int
    num_units: int = NUM_UNITS

    CONTROLS: ClassVar[tuple[str, ...]] = ("<pad>", "<t>", "<s>", "<end>", "<asr>", "<tts>", "<r0>", "<r1>")
    """`<t>`/`<s>` open a text/speech span (paper, section 3), `<end>` closes a document, `<asr>`/`<tts>` separate
    input from output in fine-tuning, `<r0>`/`<r1>` are held back so that a later control does not move the units."""

    def __post_init__(self) -> None:
        if self.text_size < 1 or self.num_units < 1:
            raise LstError(
                f"A vocabulary needs text pieces and units, got {self.text_size} pieces and {self.num_units} units.",
                hint="Check the text tokenizer and the unit tokenizer of the data.",
            )

    @property
    def pad(self) -> int:
        return self.text_size

    @property
    def text_marker(self) -> int:
        """`<t>`: text starts."""
        return self.text_size + 1

    @property
    def speech_marker(self) -> int:
        """`<s>`: speech starts."""
        return self.text_size + 2

    @property
    def end(self) -> int:
        """`<end>`: the document is over; generation stops here."""
        return self.text_size + 3

    @property
    def asr(self) -> int:
        """`<asr>`: what follows is the text of the speech before."""
        return self.text_size + 4

    @property
    def tts(self) -> int:
        """`<tts>`: what follows is the speech of the text before."""
        return self.text_size + 5

    @property
    def unit_offset(self) -> int:
        """The id of unit 0."""
        return self.text_size + len(self.CONTROLS)

    @property
    def size(self) -> int:
        """Number of ids: the rows of the embedding and of the head."""
        return self.unit_offset + self.num_units

    def is_unit(self, ids: Any) -> Any:
        """Boolean array (or tensor) of the shape of `ids`: which are speech units."""
        return (ids >= self.unit_offset) & (ids < self.size)

    def is_text(self, ids: Any) -> Any:
        """Boolean array (or tensor) of the shape of `ids`: which are text pieces (controls are not)."""
        return (ids >= 0) & (ids < self.text_size)

    def is_control(self, ids: Any) -> Any:
        """Boolean array (or tensor) of the shape of `ids`: which are control tokens."""
        return (ids >= self.text_size) & (ids < self.unit_offset)

    def from_units(self, units: NDArray[Any]) -> NDArray[np.int32]:
        """Units `(n,)` 0..num_units-1 to ids `(n,)` int32. Raises `LstError` for a unit outside the range."""
        # Unit manifests hold uint16: the sum would wrap around with a large text vocabulary.
        wide = np.asarray(units).astype(np.int32)
        if wide.size and (int(wide.min()) < 0 or int(wide.max()) >= self.num_units):
            raise LstError(
                f"Unit {int(wide.max())} lies outside the vocabulary of {self.num_units} units.",
                hint="The units come from another tokenizer than the model's; tokenize the audio again.",
            )
        return wide + np.int32(self.unit_offset)

    def to_units(self, ids: NDArray[Any]) -> NDArray[np.uint16]:
        """Ids `(n,)` back to units `(n,)` uint16. Raises `LstError` when an id is not a unit."""
        ids = np.asarray(ids)
        if not bool(np.all(self.is_unit(ids))):
            wrong = ids[~self.is_unit(ids)][0]
            raise LstError(f"Id {int(wrong)} ({self.name(int(wrong))}) is not a speech unit.")
        return (ids - self.unit_offset).astype(np.uint16)

    def name(self, token: int) -> str:
        """How a person reads an id: `<t>`, `u17`, `text 42`."""
        if self.unit_offset <= token < self.size:
            return f"u{token - self.unit_offset}"
        if self.text_size <= token < self.unit_offset:
            return self.CONTROLS[token - self.text_size]
        if 0 <= token < self.text_size:
            return f"text {token}"
        return f"outside {token}"
