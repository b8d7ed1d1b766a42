"""The recordings that a ConvNeXt vocoder learns from: analysed once, into files that are mapped: memory stays small."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lst.constants import FRAME_RATE
from lst.manifest import Manifest, Progress, Rejection
from lst.vocoder.base import Units
from lst.vocoder.recordings import analysed_utterances
from lst.vocoder.source_filter import Frames
from lst.vocoder.spectrum import Spectrum
from lst.vocoder.train import check_amount


@dataclass(frozen=True)
class Corpus:
    """Units (N,) and frames (4 N, n_mels + 2) of all utterances, mapped from disk, and where each begins."""

    ids: list[str]
    speakers: list[str]
    starts: NDArray[np.int64]
    units: NDArray[np.int64]
    frames: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.ids)

    def length(self, index: int) -> int:
        """Units of an utterance."""
        return int(self.starts[index + 1] - self.starts[index])

    def utterance(self, index: int, per_unit: int) -> tuple[Units, Frames]:
        """The units and frames of one utterance."""
        start, end = int(self.starts[index]), int(self.starts[index + 1])
        values = np.asarray(self.frames[start * per_unit : end * per_unit], np.float32)
        return np.asarray(self.units[start:end]), Frames(values[:, :-2], values[:, -2], values[:, -1])


def analyse_corpus(
    directory: Path, units: Manifest, audio: Manifest, num_units: int, name: str, progress: Progress
) -> tuple[Corpus, list[Rejection]]:
    """Analyse every recording into `directory`; those of an earlier attempt are there already.

    `index.jsonl` has a line for each utterance, written when its units and frames are in the two other files.
    """
    directory.mkdir(parents=True, exist_ok=True)
    index_file, units_file, frames_file = (directory / name for name in ("index.jsonl", "units.i64", "frames.f16"))
    per_unit, width = Spectrum().frames_per_unit, Spectrum().n_mels + 2
    lines = _complete_lines(index_file)
    done = sum(line["units"] for line in lines)
    rejected: list[Rejection] = []
    with index_file.open("ab") as index, units_file.open("ab") as of_units, frames_file.open("ab") as of_frames:
        index.truncate(sum(len(_line(line)) for line in lines))
        of_units.truncate(done * 8)
        of_frames.truncate(done * per_unit * width * 2)
        known = {line["id"] for line in lines}
        for row_id, speaker, row_units, frames in analysed_utterances(
            units, audio, num_units, name, rejected, progress, known=known
        ):
            values = np.concatenate([frames.log_mel, frames.log_f0[:, None], frames.voicing[:, None]], axis=1)
            of_units.write(row_units.tobytes())
            of_frames.write(values.astype(np.float16).tobytes())
            of_units.flush()
            of_frames.flush()
            lines.append({"id": row_id, "speaker": speaker, "units": len(row_units)})
            index.write(_line(lines[-1]))
            index.flush()
    seconds = sum(line["units"] for line in lines) / FRAME_RATE
    check_amount(units, seconds)
    corpus = Corpus(
        [line["id"] for line in lines],
        [line["speaker"] for line in lines],
        np.cumsum([0, *(line["units"] for line in lines)]),
        np.memmap(units_file, np.int64, "r"),
        np.memmap(frames_file, np.float16, "r").reshape(-1, width),
    )
    return corpus, rejected


def _complete_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of an index; the last one may have been cut short by a kill."""
    if not path.is_file():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"
