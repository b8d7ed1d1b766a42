"""The recordings that the alignment tests share: four public-domain LJSpeech utterances of the shipped sample."""

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lst.align.pocketsphinx import PocketsphinxAligner

SAMPLE = Path(__file__).parents[2] / "data_manifests" / "sample" / "ljspeech"

TEXTS = {
    "LJ001-0008": "has never been surpassed.",
    "LJ001-0013": "than in the same operations with ugly ones.",
    "LJ001-0020": 'the "lower-case" being in fact invented in the early Middle Ages.',
    "LJ001-0029": "But though on the whole, except in Italy, Gothic letter was most often used",
}


@cache
def recording(name: str) -> npt.NDArray[np.float32]:
    """16 kHz samples of one utterance."""
    import soundfile

    samples, rate = soundfile.read(SAMPLE / f"{name}.flac", dtype="float32")
    assert rate == 16_000
    return samples


@cache
def aligner() -> PocketsphinxAligner:
    """One aligner for all tests."""
    return PocketsphinxAligner()
