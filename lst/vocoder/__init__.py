"""Units to waveform."""

from lst.vocoder.base import Vocoder
from lst.vocoder.loading import (
    check_handshake,
    choose_vocoder,
    find_vocoder,
    load_vocoder,
    vocoder_fingerprint,
    vocoder_name,
)

__all__ = [
    "Vocoder",
    "check_handshake",
    "choose_vocoder",
    "find_vocoder",
    "load_vocoder",
    "vocoder_fingerprint",
    "vocoder_name",
]
