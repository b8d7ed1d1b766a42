"""Cutting long recordings at their pauses.

A detector turns audio into one decision per short frame (speech or not) and one loudness; `cut_at_pauses` turns these
into segments. Both detectors read the recording once, in pieces; what stays in memory is a few bytes per frame of 10
or 32 ms (at most 70 MB for ten hours).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lst.audio.decode import stream_audio
from lst.constants import SAMPLE_RATE
from lst.errors import LstError

if TYPE_CHECKING:
    import numpy as np

PAUSE_S = 0.3
"""Shorter silences belong to speech."""

BLIP_S = 0.1
"""Shorter sounds do not."""

JOIN_S = 1.0
"""Stretches of speech closer than this share a segment if they fit."""

_ENERGY_HOP = SAMPLE_RATE // 100
_SILERO_HOP = 512
_WINDOW_S = 60.0
"""Seconds over which the energy detector looks for the level of pauses and of speech."""


@dataclass(frozen=True)
class Activity:
    """`speech` (T,) bool and `loudness` (T,) float32 in dB, one value per `hop_s` seconds."""

    speech: "np.ndarray"
    loudness: "np.ndarray"
    hop_s: float
    duration_s: float


def detect_speech(
    path: Path | str, detector: str, *, offset_s: float = 0.0, duration_s: float | None = None
) -> Activity:
    """Find the speech in a recording, or in a part of it, with `energy` or `silero`. Raises AudioError, LstError."""
    import numpy as np

    hop = _ENERGY_HOP if detector == "energy" else _SILERO_HOP
    model = None if detector == "energy" else load_silero()
    if model is not None:
        model.reset_states()
    loudness: list[np.ndarray] = []
    speech: list[np.ndarray] = []
    samples = 0
    chunks = stream_audio(path, chunk_s=_WINDOW_S / 2, offset_s=offset_s, duration_s=duration_s)
    for frames, count in _frames(chunks, hop):
        samples += count
        power = frames.var(axis=1, dtype=np.float64)
        loudness.append((10 * np.log10(power + 1e-12)).astype(np.float32))
        if model is not None:
            speech.append(_silero_probabilities(model, frames) >= 0.5)
    level = np.concatenate(loudness)
    decisions = np.concatenate(speech) if model is not None else energy_decisions(level, hop / SAMPLE_RATE)
    return Activity(decisions, level, hop / SAMPLE_RATE, samples / SAMPLE_RATE)


def _frames(chunks: Iterator["np.ndarray"], hop: int) -> Iterator[tuple["np.ndarray", int]]:
    """Chunks as (n, hop) frames, and how many samples those are; the last frame is filled up with its last sample."""
    import numpy as np

    rest = np.zeros(0, dtype=np.float32)
    for chunk in chunks:
        audio = np.concatenate([rest, chunk])
        whole = len(audio) // hop * hop
        rest = audio[whole:]
        if whole:
            yield audio[:whole].reshape(-1, hop), whole
    if len(rest):
        yield np.pad(rest, (0, hop - len(rest)), mode="edge")[None], len(rest)


def energy_decisions(loudness: "np.ndarray", hop_s: float) -> "np.ndarray":
    """Speech where the level is over a threshold between that of pauses and that of speech.

    Both are percentiles (10, 95) over a minute, interpolated from minute to minute, so that a recording whose level
    changes is judged by its neighbourhood. Where they are less than 10 dB apart there is no pause to be found: all is
    speech, or nothing if it is quieter than -55 dBFS.
    """
    import numpy as np

    window = max(1, round(_WINDOW_S / hop_s))
    count = max(1, round(len(loudness) / window))
    parts = np.array_split(loudness, count)
    edges = np.cumsum([0, *(len(part) for part in parts)])
    centres = (edges[:-1] + edges[1:]) / 2
    levels = np.array([np.percentile(part, (10, 95)) for part in parts])
    decisions = np.zeros(len(loudness), dtype=bool)
    for start, end in pairwise(edges):
        frame = np.arange(start, end)
        pause = np.interp(frame, centres, levels[:, 0])
        speech = np.interp(frame, centres, levels[:, 1])
        threshold = np.maximum(pause + 0.35 * (speech - pause), -65.0)
        decisions[start:end] = np.where(speech - pause < 10.0, speech > -55.0, loudness[start:end] > threshold)
    return decisions


@cache
def load_silero() -> Any:
    """The silero-vad model from its package. Raises LstError if the extra is not installed."""
    try:
        from silero_vad import load_silero_vad
    except ImportError as error:
        raise LstError(
            "Segmentation by silero needs the package silero-vad.",
            hint="Install the extra: pip install 'lst[vad]' (uv sync --extra vad), or use the energy detector.",
        ) from error
    return load_silero_vad()


def _silero_probabilities(model: Any, frames: "np.ndarray") -> "np.ndarray":
    """(n, 512) float32 -> (n,) probability of speech. The model carries its state from call to call."""
    import numpy as np
    import torch

    with torch.inference_mode():
        values = [float(model(torch.from_numpy(frame.copy()), SAMPLE_RATE).item()) for frame in frames]
    return np.array(values)


def cut_at_pauses(activity: Activity, *, max_s: float, pad_s: float) -> list[tuple[float, float]]:
    """Segments (start, end) in seconds, in order, not overlapping, none longer than `max_s`.

    Speech separated by short pauses is joined while it fits; `pad_s` of the silence around it is kept; a stretch that
    is longer than `max_s` is cut at its quietest place in the second half of what fits.
    """
    import numpy as np

    hop = activity.hop_s
    longest = max(1, int(max_s / hop))
    runs = _runs(activity.speech, round(PAUSE_S / hop), round(BLIP_S / hop))
    padded = _pad(runs, round(pad_s / hop), len(activity.speech))
    smooth = max(1, round(0.1 / hop))
    quiet = np.convolve(activity.loudness, np.full(smooth, 1 / smooth, dtype=np.float32), mode="same")

    segments: list[tuple[int, int]] = []
    for start, end in padded:
        previous = segments[-1] if segments else None
        if previous and start - previous[1] <= round(JOIN_S / hop) and end - previous[0] <= longest:
            segments[-1] = (previous[0], end)
            continue
        while end - start > longest:
            half = start + longest // 2
            middle = half + int(np.argmin(quiet[half : start + longest])) if longest > 1 else start
            middle = max(middle, start + 1)
            segments.append((start, middle))
            start = middle
        segments.append((start, end))
    return [(start * hop, min(end * hop, activity.duration_s)) for start, end in segments]


def _runs(speech: "np.ndarray", pause: int, blip: int) -> list[tuple[int, int]]:
    """Half-open runs of speech, gaps shorter than `pause` frames closed, then runs shorter than `blip` dropped."""
    import numpy as np

    edges = np.flatnonzero(np.diff(np.concatenate([[0], speech.astype(np.int8), [0]])))
    runs: list[tuple[int, int]] = []
    for start, end in edges.reshape(-1, 2).tolist():
        if runs and start - runs[-1][1] < pause:
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((start, end))
    return [(start, end) for start, end in runs if end - start >= blip]


def _pad(runs: list[tuple[int, int]], pad: int, length: int) -> list[tuple[int, int]]:
    """Runs widened by `pad` frames on both sides, at most to the middle of the gap to the next one."""
    padded = []
    for index, (start, end) in enumerate(runs):
        before = (runs[index - 1][1] + start + 1) // 2 if index else 0
        after = (end + runs[index + 1][0] + 1) // 2 if index + 1 < len(runs) else length
        padded.append((max(start - pad, before), min(end + pad, after)))
    return padded
