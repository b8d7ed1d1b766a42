"""What a vocoder is trained on: the units of every utterance and the frames of its recording."""

from collections.abc import Container, Iterator
from typing import Any

import numpy as np

from lst.audio import AudioError, open_row_audio
from lst.constants import SAMPLES_PER_FRAME
from lst.manifest import Manifest, Progress, Rejection, iter_rows
from lst.vocoder.base import Float, Units, check_units, pad_to
from lst.vocoder.fitting import analyse
from lst.vocoder.source_filter import Frames
from lst.vocoder.spectrum import Spectrum

SILENT = 1e-4
"""A recording whose samples all lie within this of their mean (-80 dB) has no voice to learn from."""


def analysed_utterances(
    units: Manifest,
    audio: Manifest,
    num_units: int,
    name: str,
    rejected: list[Rejection],
    progress: Progress | None = None,
    *,
    known: Container[str] = frozenset(),
) -> Iterator[tuple[str, str, Units, Frames, Float]]:
    """Id, speaker, units (T,), true frames (4 T) and samples (640 T,) of every utterance that can be read.

    The others go to `rejected`. Rows whose id is in `known` are passed over.

    Raises LstError for a unit that the vocoder `name` with `num_units` does not have.
    """
    spectrum = Spectrum()
    recordings = PairedRows(audio)
    for done, row in enumerate(iter_rows(units, ["id", "units", "speaker"])):
        if progress is not None:
            progress(done, units.rows, "utterances")
        if row["id"] in known:
            continue
        if not row["units"]:
            rejected.append(Rejection(row["id"], "no-units"))
            continue
        ids = check_units(np.asarray(row["units"], np.int64), num_units, name)
        source = recordings.find(row["id"])
        if source is None:
            rejected.append(Rejection(row["id"], "audio-missing", f"{audio.path} has no such row"))
            continue
        try:
            samples = open_row_audio(audio, source)
        except AudioError as error:
            rejected.append(Rejection(row["id"], error.reason, str(error)))
            continue
        if np.abs(samples - samples.mean()).max() < SILENT:
            rejected.append(Rejection(row["id"], "audio-silent", "silent or constant"))
            continue
        samples = pad_to(samples, len(ids) * SAMPLES_PER_FRAME)
        yield row["id"], row["speaker"] or "", ids, analyse(samples, len(ids), spectrum), samples
    if progress is not None:
        progress(units.rows, units.rows, "utterances")


class PairedRows:
    """Finds audio rows by id. Units come in the order of their audio, so each search goes on from the last find."""

    def __init__(self, audio: Manifest) -> None:
        self._audio = audio
        self._rows = iter_rows(audio)
        self._passed: dict[str, dict[str, Any]] = {}

    def find(self, row_id: str) -> dict[str, Any] | None:
        """The audio row, or None. Rows passed on the way stay in reach."""
        if row_id in self._passed:
            return self._passed.pop(row_id)
        for row in self._rows:
            if row["id"] == row_id:
                return row
            self._passed[row["id"]] = row
        return None
