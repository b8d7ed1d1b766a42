"""Vocoders that run as units come; those that predict spectral frames and make them audible by the source-filter."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np

from lst.vocoder.base import FADE, Float, Units, Vocoder, check_units, fade_in, limit
from lst.vocoder.griffin_lim import griffin_lim
from lst.vocoder.source_filter import Frames, SourceFilter, SourceFilterConfig
from lst.vocoder.spectrum import Spectrum

Waveform = Literal["source-filter", "griffin-lim"]

BLOCK = 250
"""Units turned into sound at a time where nobody waits: bounds the memory for any length."""


class StreamedVocoder(Vocoder):
    """A vocoder that sounds as units come: `sound` is all that a kind has to give."""

    @abstractmethod
    def sound(self, units: Iterator[int], block: int) -> Iterator[Float]:
        """The waveform of valid ids in pieces, each once `block` more units (or the last) have settled it."""

    def render(self, units: Units) -> Float:
        """(T,) ids -> (640 * T,) samples."""
        return np.concatenate(list(self.sound(map(int, units), BLOCK)))

    def stream(self, units: Iterable[int], block: int = 1) -> Iterator[Float]:
        """The waveform of `synthesize` (but for rounding) in pieces, each as soon as `block` more units have come.

        Larger blocks take less time in all; the memory does not grow with the number of units.
        """
        held = np.zeros(0, np.float32)
        first = True
        for piece in self.sound(self._checked(units), block):
            held = np.concatenate([held, limit(piece)])
            if len(held) > FADE:
                settled, held = held[:-FADE], held[-FADE:]
                if first:
                    settled[:FADE] *= fade_in(FADE)
                    first = False
                yield settled
        if first:
            check_units([], self.num_units, self.name)  # raises: there were no units
        yield held * fade_in(FADE)[::-1]

    def _checked(self, units: Iterable[int]) -> Iterator[int]:
        for unit in units:
            yield int(check_units([unit], self.num_units, self.name)[0])


class FramesVocoder(StreamedVocoder):
    """Units to frames by `predict`, frames to sound by the synthesiser that `waveform` names.

    Look-ahead: that of `predict`, 41 ms of the source-filter, 5 ms of the final fade. Griffin-Lim needs the whole.
    """

    spectrum: Spectrum
    source_filter: SourceFilterConfig
    waveform: Waveform = "source-filter"

    @abstractmethod
    def predict(self, units: Iterator[int], block: int) -> Iterator[Frames]:
        """The frames of all units in pieces, each once `block` more units (or the last) have settled them."""

    def frames(self, units: Units) -> Frames:
        """(T,) valid ids -> 4 T frames."""
        pieces = list(self.predict(map(int, units), BLOCK))
        return Frames(
            np.concatenate([piece.log_mel for piece in pieces]),
            np.concatenate([piece.log_f0 for piece in pieces]),
            np.concatenate([piece.voicing for piece in pieces]),
        )

    def render(self, units: Units) -> Float:
        """(T,) ids -> (640 * T,) samples."""
        if self.waveform == "griffin-lim":
            return griffin_lim(self.frames(units).log_mel, self.spectrum, self.source_filter.seed)
        return super().render(units)

    def stream(self, units: Iterable[int], block: int = 1) -> Iterator[Float]:
        """As `StreamedVocoder.stream`; Griffin-Lim gives the whole in one piece."""
        if self.waveform == "griffin-lim":
            yield self.synthesize(list(units))
        else:
            yield from super().stream(units, block)

    def sound(self, units: Iterator[int], block: int) -> Iterator[Float]:
        """Frames through the source-filter."""
        synthesiser = SourceFilter(self.spectrum, self.source_filter)
        for frames in self.predict(units, block):
            yield synthesiser.push(frames)
        yield synthesiser.flush()


def windows(units: Iterable[int], context: int, outside: int, block: int) -> Iterator[Units]:
    """Pieces of `units` with `context` more on each side, each once `block` more units (or the last) have come.

    Before the first unit and after the last are `context` times the id `outside`. A piece of T units has
    T + 2 * context ids; T is `block`, or less at the end.
    """
    known = [outside] * context
    for unit in units:
        known.append(unit)
        if len(known) == block + 2 * context:
            yield np.array(known)
            known = known[block:]
    known += [outside] * context
    if len(known) > 2 * context:
        yield np.array(known)
