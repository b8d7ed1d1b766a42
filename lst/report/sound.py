"""Sound inside the page: MP3, which every browser plays, an eighth of the size of a WAV.

Ogg would do as well, but its streams carry a random number, and the same run shall give the same page.
"""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

from lst.constants import SAMPLE_RATE
from lst.report.html import Html, tag

if TYPE_CHECKING:
    import numpy as np

MAX_SECONDS = 60.0
"""Longer sounds are cut: the page is for listening into a result."""


def player(samples: "np.ndarray") -> Html:
    """A player of (n,) samples at 16 kHz."""
    import numpy as np
    import soundfile as sf

    file = io.BytesIO()
    heard = np.clip(np.asarray(samples, dtype=np.float32)[: round(MAX_SECONDS * SAMPLE_RATE)], -1.0, 1.0)
    sf.write(file, heard, SAMPLE_RATE, format="MP3", subtype="MPEG_LAYER_III")
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return tag("audio", controls=True, preload="metadata", src=f"data:audio/mpeg;base64,{data}")


def file_player(path: Path) -> Html:
    """A player of a sound file. Raises AudioError if it cannot be read."""
    from lst.audio import read_audio

    return player(read_audio(path, duration_s=MAX_SECONDS))
