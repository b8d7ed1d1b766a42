"""What an aligner is trained on: recordings end to end in one file, their labels, and batches of similar length.

Recordings lie beside the checkpoints and are mapped: memory does not grow with the corpus.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lst.align.calibrate import Words
from lst.align.network import BLANK, SPACE, STRIDE
from lst.audio import AudioError, open_row_audio
from lst.constants import SAMPLE_RATE
from lst.errors import LstError
from lst.manifest import Manifest, Progress, Rejection, iter_rows, write_json
from lst.text.normalise import fold, spoken_text
from lst.units.codecs import add_codec
from lst.units.segments import add_noise

if TYPE_CHECKING:
    from lst.align.train import TrainAlignerConfig

MIN_SECONDS = 60.0
"""Less speech than this is refused: most characters would hardly have been heard."""
SILENT = 1e-4


@dataclass(frozen=True)
class Corpus:
    """Recordings end to end, (samples,) int16, and of each row: where it begins and ends, its labels, its words' times.

    `spans`: first frame and end of each word, None where nobody knows.
    """

    ids: list[str]
    starts: NDArray[np.int64]
    spelled: list[list[int]]
    spans: list[list[list[int]] | None]
    audio: NDArray[np.int16]
    labels: tuple[str, ...]

    def samples(self, index: int) -> NDArray[np.float32]:
        """(n,) of one row."""
        part = self.audio[self.starts[index] : self.starts[index + 1]]
        return np.asarray(part, np.float32) / np.float32(32768)

    def length(self, index: int) -> int:
        """Samples of one row."""
        return int(self.starts[index + 1] - self.starts[index])


def alphabet_of(texts: list[str], rare: int) -> tuple[str, ...]:
    """Blank, sign between words, and the characters that `texts` (spoken words) have at least `rare` times."""
    counts = Counter(character for text in texts for character in text if not character.isspace())
    kept = sorted(character for character, count in counts.items() if count >= rare and character != SPACE)
    return (BLANK, SPACE, *kept)


def spell(text: str, labels: tuple[str, ...]) -> list[int]:
    """The labels of spoken words; a character outside the alphabet is spelled without its diacritics, or left out."""
    numbers = {label: index for index, label in enumerate(labels)}
    words = []
    for word in text.split():
        found = [
            numbers[part]
            for character in word
            for part in ([character] if character in numbers else fold(character))
            if part in numbers
        ]
        if found:
            words.append(found)
    return [label for index, word in enumerate(words) for label in ([1] if index else []) + word]


def split_words(spelled: list[int]) -> list[list[int]]:
    """The labels of each word: label 1 stands between two."""
    words: list[list[int]] = [[]]
    for label in spelled:
        if label == 1:
            words.append([])
        else:
            words[-1].append(label)
    return words


def word_frames(spelled: list[int], words: list[dict[str, Any]] | None) -> list[list[int]] | None:
    """First frame and end of every spelled word; None if times are not known, or not of these words."""
    if words is None or len(words) != spelled.count(1) + 1:
        return None
    return [[round(word[name] * SAMPLE_RATE / STRIDE) for name in ("start_s", "end_s")] for word in words]


def prepare(
    directory: Path, audio: Manifest, config: "TrainAlignerConfig", times: Words, progress: Progress
) -> tuple[Corpus, list[Rejection]]:
    """Read every recording into `directory`, or map what an earlier attempt has read. `times`: true words, by file."""
    index_file = directory / "index.json"
    if not index_file.is_file():
        directory.mkdir(parents=True, exist_ok=True)
        spoken = {row["id"]: spoken_text(row["text"] or "", config.language) for row in iter_rows(audio)}
        labels = alphabet_of(list(spoken.values()), config.rare)
        if len(labels) < 3:
            raise LstError(f"{audio.path} has no transcripts to learn from.", hint="Ingest recordings with their text.")
        rejected: list[Rejection] = []
        ids, starts, spelled, spans = [], [0], [], []
        with (directory / "audio.i16").open("wb") as file:
            for done, row in enumerate(iter_rows(audio)):
                progress(done, audio.rows, "recordings")
                own = spell(spoken[row["id"]], labels)
                samples = _readable(audio, row, own, config, rejected)
                if samples is not None:
                    file.write(np.round(np.clip(samples, -1, 32767 / 32768) * 32768).astype("<i2").tobytes())
                    ids.append(row["id"])
                    starts.append(starts[-1] + len(samples))
                    spelled.append(own)
                    spans.append(None if row["offset_s"] else word_frames(own, times.get(row["audio_path"])))
        rejections = [asdict(rejection) for rejection in rejected]
        prepared = {"ids": ids, "starts": starts, "spelled": spelled, "spans": spans, "labels": list(labels)}
        write_json(index_file, {**prepared, "rejected": rejections})
    body = json.loads(index_file.read_text(encoding="utf-8"))
    seconds = body["starts"][-1] / SAMPLE_RATE
    if seconds < MIN_SECONDS:
        raise LstError(
            f"{audio.path} has {seconds:.1f} s of usable speech with a transcript, too little for an aligner.",
            hint=f"Give at least {MIN_SECONDS:.0f} s, better some hours. Rejected: {_reasons(body['rejected'])}.",
        )
    corpus = Corpus(
        body["ids"],
        np.asarray(body["starts"], np.int64),
        body["spelled"],
        body["spans"],
        np.memmap(directory / "audio.i16", "<i2", "r"),
        tuple(body["labels"]),
    )
    return corpus, [Rejection(**rejection) for rejection in body["rejected"]]


def _reasons(rejected: list[dict[str, Any]]) -> str:
    counts = Counter(entry["reason"] for entry in rejected)
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "none"


def _readable(
    audio: Manifest,
    row: Mapping[str, Any],
    labels: list[int],
    config: "TrainAlignerConfig",
    rejected: list[Rejection],
) -> NDArray[np.float32] | None:
    """The samples of a row, or None and a reason."""

    def reject(reason: str, detail: str = "") -> NDArray[np.float32] | None:
        rejected.append(Rejection(row["id"], reason, detail))
        return None

    if not labels:
        return reject("no-text" if not row["text"] else "text-outside-alphabet", (row["text"] or "")[:60])
    if row["duration_s"] > config.longest_s:
        return reject("too-long", f"{row['duration_s']:.1f} s")
    repeats = sum(first == second for first, second in pairwise(labels))
    if len(labels) + repeats > row["duration_s"] * SAMPLE_RATE / STRIDE:
        return reject("text-too-long", f"{len(labels)} characters in {row['duration_s']:.1f} s")
    try:
        samples = open_row_audio(audio, row)
    except AudioError as error:
        return reject(error.reason, str(error))
    if np.abs(samples - samples.mean()).max() < SILENT:
        return reject("audio-silent", "silent or constant")
    return np.asarray(samples, np.float32)


class Rows:
    """Batches of rows of similar length."""

    def __init__(self, corpus: Corpus, train: list[int], config: "TrainAlignerConfig") -> None:
        self._corpus = corpus
        self._config = config
        self._order = sorted(train, key=lambda index: (corpus.length(index), corpus.ids[index]))

    def batch(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Neighbours in the order of length, around a row drawn at random, of about `seconds` in all."""
        first = int(torch.randint(len(self._order), (1,), generator=generator))
        budget = self._config.seconds * SAMPLE_RATE
        size = max(1, round(budget / self._corpus.length(self._order[first])))
        low = max(0, min(first - size // 2, len(self._order) - size))
        disturbed = self._config.noise or self._config.codec
        return self.of(self._order[low : low + size], generator if disturbed else None)

    def _disturb(self, samples: NDArray[np.float32], seed: int) -> None:
        """Each disturbance has a generator of its own: the noise is the same with and without a codec."""
        if self._config.noise:
            add_noise(samples, np.random.default_rng(seed))
        if self._config.codec:
            add_codec(samples, self._config.codec, np.random.default_rng([seed, 1]))

    def of(self, rows: list[int], generator: torch.Generator | None) -> dict[str, Tensor]:
        """`samples` (B, n) filled up with silence, `frames` (B,), `labels` (sum,), `lengths` (B,).

        Of the rows whose words' times are known, `timed` (B,): `words` (W, 3) row, first frame, end; `word_lengths`
        (W,) how many of the labels `word_labels` are theirs.
        """
        longest = max(self._corpus.length(index) for index in rows)
        samples = np.zeros((len(rows), longest), np.float32)
        for row, index in enumerate(rows):
            samples[row, : self._corpus.length(index)] = self._corpus.samples(index)
        if generator is not None:
            self._disturb(samples, int(torch.randint(2**31, (1,), generator=generator)))
        spelled = [self._corpus.spelled[index] for index in rows]
        timed = [self._corpus.spans[index] is not None for index in rows]
        words = [
            (row, frame, end, labels)
            for row, index in enumerate(rows)
            if timed[row]
            for (frame, end), labels in zip(
                self._corpus.spans[index] or [], split_words(self._corpus.spelled[index]), strict=True
            )
        ]
        return {
            "timed": torch.tensor(timed),
            "words": torch.tensor([word[:3] for word in words], dtype=torch.int64).reshape(-1, 3),
            "word_lengths": torch.tensor([len(word[3]) for word in words], dtype=torch.int64),
            "word_labels": torch.tensor([label for word in words for label in word[3]], dtype=torch.int64),
            "samples": torch.from_numpy(samples),
            "frames": torch.tensor([self._corpus.length(index) // STRIDE for index in rows]),
            "labels": torch.tensor([label for labels in spelled for label in labels]),
            "lengths": torch.tensor([len(labels) for labels in spelled]),
        }
