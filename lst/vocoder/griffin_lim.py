"""Griffin-Lim: a waveform whose spectrogram comes near a given one, from nothing but its magnitudes.

The fast variant with momentum (Perraudin, Balazs and Sondergaard 2013), from seeded random phases. Blocks of frames
bound the memory; they overlap and are cross-faded.
"""

import numpy as np

from lst.vocoder.base import Float, fade_in
from lst.vocoder.spectrum import Spectrum

ITERATIONS = 32
MOMENTUM = 0.99
BLOCK = 2000
"""Frames done at once: 20 s at a hop of 160."""
OVERLAP = 16


def griffin_lim(log_mel: Float, spectrum: Spectrum, seed: int = 0) -> Float:
    """log_mel: (K, n_mels) -> (hop * K,) samples."""
    hop = spectrum.hop
    out = np.zeros(len(log_mel) * hop, np.float32)
    for start in range(0, len(log_mel), BLOCK):
        first = max(0, start - OVERLAP)
        piece = _block(log_mel[first : start + BLOCK], spectrum, seed)
        fade = (start - first) * hop
        if fade:
            rise = fade_in(fade)
            piece[:fade] *= rise
            out[first * hop : start * hop] *= rise[::-1]
        out[first * hop : first * hop + len(piece)] += piece
    return out


def _block(log_mel: Float, spectrum: Spectrum, seed: int) -> Float:
    magnitude = np.exp(0.5 * (log_mel @ spectrum.mel_to_bins.T))
    random = np.random.Generator(np.random.PCG64(seed))
    phase = np.exp(2j * np.pi * random.random(magnitude.shape)).astype(np.complex64)
    previous = np.zeros_like(phase)
    for _ in range(ITERATIONS):
        consistent = spectrum.stft(spectrum.istft(magnitude * phase))
        ahead = consistent - (MOMENTUM / (1 + MOMENTUM)) * previous
        previous = consistent
        phase = ahead / np.maximum(np.abs(ahead), 1e-9)
    return spectrum.istft(magnitude * phase)
