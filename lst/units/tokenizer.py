"""`UnitTokenizer`: 16 kHz audio in, 25 units per second out, bounded memory whatever the length.

Units depend on the audio alone. Utterances are encoded one at a time, so there is no padding and no neighbour that
could change them (padding two seconds to four moves HuBERT features by tens of percent, and on a CPU batches are not
faster). Audio longer than one window is cut into overlapping windows; each seam lies in the middle of an overlap, so a
unit is always computed with at least `margin` units of context on either side where the audio has them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from lst.constants import FRAME_RATE, SAMPLES_PER_FRAME
from lst.errors import LstError
from lst.units.spec import WindowSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Encoder(Protocol):
    """Audio to features, at 25 Hz."""

    dim: int

    def num_frames(self, num_samples: int) -> int:
        """Frames that so many samples give, exactly."""

    def num_samples(self, num_frames: int) -> int:
        """The fewest samples that give so many whole frames, all on the 640-sample grid."""

    def features(self, samples: "NDArray[np.float32]") -> "NDArray[Any]":
        """(n,) float32 at 16 kHz -> (num_frames(n), dim)."""


class Quantizer(Protocol):
    """Features to ids."""

    dim: int
    num_units: int
    blank: int | None
    """The id that means "as before", if the quantizer has one."""

    def codes(self, features: "NDArray[Any]") -> "NDArray[np.int64]":
        """(T, dim) -> (T,) ids below `num_units`, each a function of its own frame."""


@dataclass(frozen=True)
class UnitTokenizer:
    """Encoder, quantizer and the rule for long audio. Made by `lst.units.load_tokenizer`."""

    name: str
    fingerprint: str
    encoder: Encoder
    quantizer: Quantizer
    windows: WindowSpec
    frame_rate: ClassVar[int] = FRAME_RATE

    @property
    def num_units(self) -> int:
        """Ids are 0 ... num_units - 1."""
        return self.quantizer.num_units

    def num_frames(self, num_samples: int) -> int:
        """Units that audio of so many samples at 16 kHz gets: exact, and known without encoding."""
        return self.encoder.num_frames(num_samples)

    def encode(self, samples: "NDArray[Any]") -> "NDArray[np.uint16]":
        """(n,) float samples at 16 kHz -> (num_frames(n),) units. Raises LstError for NaN or infinity."""
        return np.concatenate([*self.encode_stream([samples]), np.zeros(0, np.uint16)])

    def encode_stream(self, chunks: Iterable["NDArray[Any]"]) -> Iterator["NDArray[np.uint16]"]:
        """Units of one recording that comes in pieces of any size, as soon as they are settled.

        The units do not depend on how the recording is cut into pieces; memory is that of one window and one piece.
        """
        blanks = BlankFilling(self.quantizer.blank)
        for window, is_first, is_last in self._windows(chunks):
            frames = self.encoder.num_frames(len(window))
            if frames == 0:
                continue
            start = 0 if is_first else self.windows.margin
            stop = frames if is_last else frames - self.windows.margin
            codes = self.quantizer.codes(self.encoder.features(window)[start:stop])
            yield blanks.fill(codes).astype(np.uint16)
        yield blanks.finish().astype(np.uint16)

    def _windows(self, chunks: Iterable["NDArray[Any]"]) -> Iterator[tuple["NDArray[np.float32]", bool, bool]]:
        """Windows with (is first, is last). Window k begins at unit k * hop, so all frames lie on one grid."""
        length = self.encoder.num_samples(self.windows.length)
        hop = self.windows.hop * SAMPLES_PER_FRAME
        buffer = np.zeros(0, np.float32)
        is_first = True
        for chunk in chunks:
            buffer = np.concatenate([buffer, _checked(chunk)]) if len(buffer) else _checked(chunk)
            while len(buffer) > length:
                yield buffer[:length], is_first, False
                buffer = buffer[hop:]
                is_first = False
        yield buffer, is_first, True


class BlankFilling:
    """Spirit LM's rule for blanks: a blank takes the unit to its left, within one recording.

    Blanks before the first unit take that unit. A recording of blanks only keeps them: its units are all `blank`.
    """

    def __init__(self, blank: int | None) -> None:
        self._blank = blank
        self._last: int | None = None
        self._waiting = 0

    def fill(self, codes: "NDArray[np.int64]") -> "NDArray[np.int64]":
        """The next codes of the recording, (T,) -> ids; codes that have to wait for the first unit come later."""
        if self._blank is None or len(codes) == 0:
            return codes
        known = codes != self._blank
        if self._last is None:
            if not known.any():
                self._waiting += len(codes)
                return codes[:0]
            self._last = int(codes[known.argmax()])
        codes = np.concatenate([np.full(1 + self._waiting, self._last), codes])
        source = np.where(np.concatenate([np.ones(1 + self._waiting, bool), known]), np.arange(len(codes)), 0)
        self._waiting = 0
        filled = codes[np.maximum.accumulate(source)][1:]
        self._last = int(filled[-1])
        return filled

    def finish(self) -> "NDArray[np.int64]":
        """What is still waiting when the recording ends without a single unit."""
        return np.full(self._waiting, self._blank if self._blank is not None else 0, np.int64)


def _checked(samples: "NDArray[Any]") -> "NDArray[np.float32]":
    samples = np.asarray(samples)
    if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
        raise LstError(
            f"Audio for a unit tokenizer must be one channel of floats, not {samples.dtype} of shape {samples.shape}.",
            hint="Read it with lst.audio.read_audio.",
        )
    samples = samples.astype(np.float32, copy=False)
    if not np.isfinite(samples).all():
        raise LstError("The audio holds NaN or infinite samples.", hint="Repair or leave out the recording.")
    return samples
