"""From generated units to a sound file, by the vocoder that belongs to the model's unit tokenizer."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lst.generate.session import Session

if TYPE_CHECKING:
    from lst.vocoder import Vocoder

Samples = NDArray[np.float32]


def open_vocoder(session: Session, name: str | None = None) -> "Vocoder":
    """The vocoder `name`, or one on this machine that was made for the model's units.

    Raises LstError if there is none, or if `name` was made for other units.
    """
    from lst.vocoder import choose_vocoder, load_vocoder

    tokenizer, told_by = session.fingerprints.get("tokenizer", ""), session.loaded.manifest
    chosen = choose_vocoder(name, tokenizer, str(session.directory), told_by=told_by)
    return load_vocoder(chosen, tokenizer=tokenizer, told_by=told_by)


def write_sound(path: Path, samples: Samples, rate: int) -> float:
    """Write a 16-bit WAV, whole or not at all, with the directories above it; returns its length in seconds."""
    from lst.manifest import explain_os_errors
    from lst.vocoder.files import write_wav

    with explain_os_errors(f"writing {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_wav(path, samples, rate)
    return len(samples) / rate


def write_stream(path: Path, pieces: Iterable[Samples], rate: int) -> float:
    """`write_sound` for a waveform that comes in pieces."""
    from lst.manifest import explain_os_errors
    from lst.vocoder.files import write_wav_pieces

    with explain_os_errors(f"writing {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_wav_pieces(path, pieces, rate) / rate


def play_stream(sink: BinaryIO, pieces: Iterable[Samples], rate: int) -> float:
    """Send pieces on as they come, as raw samples (16 bits, little-endian, mono); returns their length in seconds."""
    count = 0
    for piece in pieces:
        sink.write(np.round(np.clip(piece, -1, 32767 / 32768) * 32768).astype("<i2").tobytes())
        sink.flush()
        count += len(piece)
    return count / rate


def speak(vocoder: "Vocoder", units: NDArray[Any], path: Path) -> float:
    """Vocode units `(n,)` into a WAV file; returns its length in seconds (0 units: a file without samples)."""
    samples = vocoder.synthesize(np.asarray(units, dtype=np.uint16)) if len(units) else np.empty(0, dtype=np.float32)
    return write_sound(path, samples, vocoder.sample_rate)
