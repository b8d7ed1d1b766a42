"""Phones of transcribed speech on the 25 Hz grid, by forced alignment: for measuring units, and for LDA."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

from lst.align.loading import default_min_score, load_aligner
from lst.manifest import Progress
from lst.units.quality import frame_labels

if TYPE_CHECKING:
    import numpy as np

Key = TypeVar("Key")


Span = tuple[float, float, str]
"""(start_s, end_s, phone)."""


def align_phones(
    utterances: "Iterable[tuple[Key, np.ndarray, str, int]]",
    *,
    frames: int,
    aligner: str = "pocketsphinx",
    progress: Progress | None = None,
) -> tuple[dict[Key, list[str]], dict[str, int]]:
    """The phone at the middle of each frame, by key; otherwise as `align_spans`."""
    lengths: dict[Key, int] = {}

    def counted() -> "Iterable[tuple[Key, np.ndarray, str, int]]":
        for key, samples, text, length in utterances:
            lengths[key] = length
            yield key, samples, text, length

    spans, left_out = align_spans(counted(), frames=frames, aligner=aligner, progress=progress)
    return {key: frame_labels(found, lengths[key]) for key, found in spans.items()}, left_out


def align_spans(
    utterances: "Iterable[tuple[Key, np.ndarray, str, int]]",
    *,
    frames: int,
    aligner: str = "pocketsphinx",
    progress: Progress | None = None,
) -> tuple[dict[Key, list[Span]], dict[str, int]]:
    """Align (key, (n,) samples, text, number of frames) until `frames` frames have phones.

    Returns the phones in order, by key, and how many utterances were left out, by reason (those whose transcript does
    not fit: `low-score`).
    """
    load = load_aligner(aligner)
    least = default_min_score(aligner)
    phones: dict[Key, list[Span]] = {}
    left_out: dict[str, int] = {}
    done = 0
    for key, samples, text, length in utterances:
        if done >= frames:
            break
        alignment = load.align(samples, text, length)
        reason = alignment.rejected or ("low-score" if alignment.score < least else None)
        if reason is not None:
            left_out[reason] = left_out.get(reason, 0) + 1
            continue
        phones[key] = [(phone.start_s, phone.end_s, phone.name) for phone in alignment.phones]
        done += length
        if progress is not None:
            progress(min(done, frames), frames, "frames aligned")
    return phones, left_out
