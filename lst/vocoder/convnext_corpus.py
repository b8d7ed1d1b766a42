"""The recordings that a network learns from: analysed once, into files that are mapped, so that memory stays small."""

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lst.constants import FRAME_RATE, SAMPLES_PER_FRAME
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
    samples: NDArray[np.int16] | None = None
    """(640 N,), for those that learn waveforms."""

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
    directory: Path,
    units: Manifest,
    audio: Manifest,
    num_units: int,
    name: str,
    progress: Progress,
    *,
    with_samples: bool = False,
) -> tuple[Corpus, list[Rejection]]:
    """Analyse every recording into `directory`; those of an earlier attempt are there already.

    `index.jsonl` has a line for each utterance, written when its units and frames, and its samples if they are asked
    for, are in the other files.
    """
    directory.mkdir(parents=True, exist_ok=True)
    index_file = directory / "index.jsonl"
    width = Spectrum().n_mels + 2
    kinds: dict[str, tuple[type[np.generic], int]] = {  # of a number, and how many there are for a unit
        "units.i64": (np.int64, 1),
        "frames.f16": (np.float16, Spectrum().frames_per_unit * width),
    }
    if with_samples:
        kinds["samples.i16"] = (np.int16, SAMPLES_PER_FRAME)
    lines = _complete_lines(index_file)
    done = sum(line["units"] for line in lines)
    rejected: list[Rejection] = []
    with ExitStack() as stack:
        index = stack.enter_context(index_file.open("ab"))
        index.truncate(sum(len(_line(line)) for line in lines))
        files = [stack.enter_context((directory / file).open("ab")) for file in kinds]
        for file, (kind, per_unit) in zip(files, kinds.values(), strict=True):
            file.truncate(done * per_unit * np.dtype(kind).itemsize)
        known = {line["id"] for line in lines}
        for row_id, speaker, row_units, frames, samples in analysed_utterances(
            units, audio, num_units, name, rejected, progress, known=known
        ):
            values = np.concatenate([frames.log_mel, frames.log_f0[:, None], frames.voicing[:, None]], axis=1)
            arrays: list[NDArray[Any]] = [row_units, values, np.round(np.clip(samples, -1, 1) * 32767)]
            for file, array, (kind, _) in zip(files, arrays, kinds.values(), strict=False):
                file.write(array.astype(kind).tobytes())
                file.flush()
            lines.append({"id": row_id, "speaker": speaker, "units": len(row_units)})
            index.write(_line(lines[-1]))
            index.flush()
    seconds = sum(line["units"] for line in lines) / FRAME_RATE
    check_amount(units, seconds)
    return open_corpus(directory), rejected


def open_corpus(directory: Path) -> Corpus:
    """What `analyse_corpus` left in `directory`."""
    lines = _complete_lines(directory / "index.jsonl")
    samples = directory / "samples.i16"
    return Corpus(
        [line["id"] for line in lines],
        [line["speaker"] for line in lines],
        np.cumsum([0, *(line["units"] for line in lines)]),
        np.memmap(directory / "units.i64", np.int64, "r"),
        np.memmap(directory / "frames.f16", np.float16, "r").reshape(-1, Spectrum().n_mels + 2),
        np.memmap(samples, np.int16, "r") if samples.is_file() else None,
    )


def _complete_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of an index; the last one may have been cut short by a kill."""
    if not path.is_file():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"
