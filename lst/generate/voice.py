"""From generated units to a sound file, by the vocoder that belongs to the model's unit tokenizer."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lst.errors import LstError
from lst.generate.session import Session

if TYPE_CHECKING:
    from lst.vocoder import Vocoder

Samples = NDArray[np.float32]


def open_vocoder(session: Session, name: str | None = None) -> "Vocoder":
    """The vocoder `name`, or one on this machine that was made for the model's units.

    Raises LstError if there is none, or if `name` was made for other units.
    """
    from lst.vocoder import find_vocoder, load_vocoder

    wanted = session.fingerprints.get("tokenizer", "")
    if name is None:
        found = find_vocoder(wanted)
        if found is None:
            raise LstError(
                f"No vocoder on this machine was made for the units of {session.directory}.",
                hint="Fit one with lst train-vocoder, and give it with --vocoder.",
            )
        name = str(found)
    return load_vocoder(name, tokenizer=wanted)


def write_wav(path: Path, samples: Samples, rate: int) -> float:
    """Write 16-bit PCM, whole or not at all; returns the length in seconds. Samples beyond ±1 are clipped."""
    import soundfile

    from lst.manifest import explain_os_errors

    temporary = path.with_name(f".{path.name}.writing")
    with explain_os_errors(f"writing {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(temporary, np.clip(samples, -1, 1), rate, format="WAV", subtype="PCM_16")
        temporary.replace(path)
    return len(samples) / rate


def speak(vocoder: "Vocoder", units: NDArray[Any], path: Path) -> float:
    """Vocode units `(n,)` into a WAV file; returns its length in seconds (0 units: a file without samples)."""
    samples = vocoder.synthesize(np.asarray(units, dtype=np.uint16)) if len(units) else np.empty(0, dtype=np.float32)
    return write_wav(path, samples, vocoder.sample_rate)
