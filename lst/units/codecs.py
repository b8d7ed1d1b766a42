"""Recordings as they come out of a codec: a disturbance for the training of tokenizers and aligners.

libsndfile encodes and decodes in memory. All of these give back as much sound as they took, in its place: Opus and
Vorbis files say what to drop at both ends; GSM only fills up its last block.
"""

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from lst.constants import SAMPLE_RATE
from lst.errors import LstError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PEAK = 0.9
"""Louder sound is turned down on its way in, and up again after: noise on speech may be above full scale."""


@dataclass(frozen=True)
class Codec:
    """What libsndfile calls it, at what sampling rate, and from how little to how much it compresses (0 to 1)."""

    container: str
    subtype: str
    rate: int = SAMPLE_RATE
    compression: tuple[float, float] | None = None


CODECS: Final = {
    "Opus": Codec("OGG", "OPUS", compression=(0.92, 1.0)),  # 26 to 6 kbit/s
    "Vorbis": Codec("OGG", "VORBIS", compression=(0.7, 1.0)),  # some 40 to 26 kbit/s
    "mu-law": Codec("WAV", "ULAW", rate=8000),  # 64 kbit/s
    "GSM 6.10": Codec("WAV", "GSM610", rate=8000),  # 13 kbit/s
}
"""All that are drawn from: a step must not depend on which of them a machine has."""


def require_codecs() -> None:
    """Raise LstError if libsndfile was built without one of `CODECS`."""
    import soundfile

    missing = [name for name, codec in CODECS.items() if codec.subtype not in _subtypes(codec.container)]
    if missing:
        raise LstError(
            f"libsndfile {soundfile.__libsndfile_version__} was built without {', '.join(missing)}, "
            "which the setting codec needs.",
            hint="Install soundfile from its wheel, which has them, or set codec to 0.",
        )


def add_codec(samples: "NDArray[np.float32]", share: float, random: np.random.Generator) -> None:
    """A `share` of the rows (B, n) at 16 kHz goes through a codec drawn from `CODECS`; length and place stay."""
    names = list(CODECS)
    for row in samples:
        if random.random() < share:
            codec = CODECS[names[int(random.integers(len(names)))]]
            row[:] = through_codec(row, codec, float(random.random()))


def through_codec(samples: "NDArray[np.float32]", codec: Codec, strength: float) -> "NDArray[np.float32]":
    """(n,) samples at 16 kHz, encoded and decoded: (n,). `strength` (0 to 1): where in its range of compression."""
    import soundfile
    from scipy.signal import resample_poly

    ratio = SAMPLE_RATE // codec.rate
    sound = samples if ratio == 1 else resample_poly(samples, 1, ratio)
    scale = max(1.0, float(np.abs(sound).max(initial=0.0)) / PEAK)
    compression = None
    if codec.compression is not None:
        least, most = codec.compression
        compression = least + strength * (most - least)
    file = io.BytesIO()
    soundfile.write(
        file,
        sound / np.float32(scale),
        codec.rate,
        format=codec.container,
        subtype=codec.subtype,
        compression_level=compression,
    )
    file.seek(0)
    decoded = soundfile.read(file, dtype="float32")[0][: len(sound)] * np.float32(scale)
    heard: NDArray[np.float32] = decoded if ratio == 1 else resample_poly(decoded, ratio, 1)[: len(samples)]
    return heard.astype(np.float32, copy=False)


def _subtypes(container: str) -> dict[str, str]:
    import soundfile

    found: dict[str, str] = soundfile.available_subtypes(container)
    return found
