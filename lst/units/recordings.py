"""The audio of a training on the 40 ms grid: one file that is mapped into memory, and a list of what lies where."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lst.constants import SAMPLES_PER_FRAME
from lst.manifest import Manifest, Progress, Rejection, iter_rows, write_json

if TYPE_CHECKING:
    import numpy as np

AUDIO_FILE = "audio.i16"
INDEX_FILE = "audio.json"
SCALE = 32767
MIN_FRAMES = 4


@dataclass(frozen=True)
class Utterance:
    """`frames` frames of the audio from frame `start` on."""

    id: str
    speaker: str
    text: str
    start: int
    frames: int


@dataclass(frozen=True)
class Recordings:
    """`audio`: (frames, 640) int16, all utterances one after the other, each cut to whole frames."""

    audio: "np.ndarray"
    utterances: Sequence[Utterance]

    @property
    def frames(self) -> int:
        """Of all utterances."""
        return len(self.audio)

    def samples(self, utterance: Utterance) -> "np.ndarray":
        """(640 frames,) float32."""
        import numpy as np

        piece = self.audio[utterance.start : utterance.start + utterance.frames]
        return piece.reshape(-1).astype(np.float32) / np.float32(SCALE)

    def shuffled(self, seed: int) -> Iterator[tuple[int, Utterance]]:
        """All utterances with their places, in random order."""
        import numpy as np

        for index in np.random.default_rng([seed, 2]).permutation(len(self.utterances)).tolist():
            yield index, self.utterances[index]


def collect_recordings(
    audio: Manifest, directory: Path, rejected: list[Rejection], progress: Progress | None = None
) -> Recordings:
    """Decode every row of `audio` into `directory`, or open what an earlier attempt left there, complete.

    115 MB of disk an hour. Rows that cannot be read, or are shorter than 0.16 s, are added to `rejected`.
    """
    import numpy as np

    if not (directory / INDEX_FILE).exists():
        directory.mkdir(parents=True, exist_ok=True)
        _decode(audio, directory, progress)
    index: dict[str, Any] = json.loads((directory / INDEX_FILE).read_text(encoding="utf-8"))
    rejected.extend(Rejection(**item) for item in index["rejected"])
    if not index["utterances"]:
        samples = np.zeros((0, SAMPLES_PER_FRAME), np.int16)
    else:
        samples = np.memmap(directory / AUDIO_FILE, np.int16, "r").reshape(-1, SAMPLES_PER_FRAME)
    return Recordings(samples, [Utterance(**item) for item in index["utterances"]])


def _decode(audio: Manifest, directory: Path, progress: Progress | None) -> None:
    import numpy as np

    from lst.audio import AudioError
    from lst.units.stage import row_chunks

    utterances: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    position = 0
    with (directory / AUDIO_FILE).open("wb") as file:
        for done, row in enumerate(iter_rows(audio)):
            if progress is not None:
                progress(done, audio.rows, "utterances")
            try:
                samples = np.concatenate(list(row_chunks(audio, row)))
            except AudioError as error:
                rejected.append({"id": row["id"], "reason": error.reason, "detail": str(error)})
                continue
            frames = len(samples) // SAMPLES_PER_FRAME
            if frames < MIN_FRAMES:
                rejected.append({"id": row["id"], "reason": "audio-too-short", "detail": f"{len(samples)} samples"})
                continue
            whole = samples[: frames * SAMPLES_PER_FRAME]
            file.write((np.clip(whole, -1, 1) * SCALE).round().astype(np.int16).tobytes())
            facts = {"id": row["id"], "speaker": row["speaker"] or "", "text": row["text"] or ""}
            utterances.append({**facts, "start": position, "frames": frames})
            position += frames
        file.flush()
        os.fsync(file.fileno())
    write_json(directory / INDEX_FILE, {"utterances": utterances, "rejected": rejected})
