"""The embedded aligner: English triphone HMMs and the dictionary of the pocketsphinx package.

1. Text -> spoken words (`lst.text.normalise`) -> pronunciations, from the dictionary or by letter-to-sound rules.
2. pocketsphinx computes features; every tied state gets its log density (`lst.align.sphinx_model`).
3. Exact Viterbi over all pronunciations with optional pauses (`lst.align.viterbi`), in windows for long recordings.
4. A phone's score is exp(min(0, r) / 4), r being its mean log density per frame above that of the best base-phone state
   in each frame: how well the phone fits compared with any other. A word's score is the mean over its phones. Right
   transcripts score 0.6 - 0.9, wrong ones 0.1 - 0.35 (docs/alignment.md).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lst.align.base import Aligner, Alignment, Phone, TimedWord, on_grid
from lst.align.letters import LETTERS_EN
from lst.align.pronunciation import Lexicon, english_lexicon
from lst.align.sphinx_model import (
    MODEL_FRAME_RATE,
    AcousticModel,
    Floats,
    FrontEnd,
    load_acoustic_model,
)
from lst.align.viterbi import ANYTHING, GAP, PhoneGraph, PhoneSpan, build_graph, viterbi
from lst.constants import SAMPLE_RATE
from lst.text.normalise import NormalisedWord

METHOD = "1"
"""Version of the algorithm, part of the fingerprint: raise it when results change."""

_WHOLE_S = 60
_WINDOW_S = 40
_MARGIN_S = 6
_WINDOW_WORDS = 240
_FRAME_CENTRE_S = 0.0128 - 0.005  # a boundary lies between the centres of two analysis windows of 25.6 ms
_SCALE = 4.0
_ANYTHING_PENALTY = np.float32(
    2.0
)  # per frame: any speech fits worse than a right word (1), better than a wrong one (5)


@dataclass
class _Pieces:
    """What the windows of a recording add up to: per spoken word its span, and all phones with their scores."""

    spans: list[tuple[float, float]] = field(default_factory=list)
    scores: list[list[float]] = field(default_factory=list)
    phones: list[Phone] = field(default_factory=list)


class PocketsphinxAligner(Aligner):
    """Forced alignment of English. Holds 60 MB; one per process."""

    def __init__(self) -> None:
        self.name = "pocketsphinx"
        self.fingerprint = pocketsphinx_fingerprint()

    @cached_property
    def model(self) -> AcousticModel:
        """The acoustic model, read when first used."""
        return load_acoustic_model()

    @cached_property
    def lexicon(self) -> Lexicon:
        """The pronunciations, read when first used."""
        return english_lexicon()

    @cached_property
    def _front_end(self) -> FrontEnd:
        return FrontEnd()

    @cached_property
    def _references(self) -> npt.NDArray[np.int64]:
        """States of the base phones: what a phone's fit is compared with."""
        return np.unique(self.model.states[: len(self.model.phones)]).astype(np.int64)

    def align(self, samples: npt.NDArray[np.float32], text: str, num_frames: int) -> Alignment:
        """See `Aligner.align`. Reasons: no-text, text-other-script, text-too-long, alignment-failed."""
        words = self.read(text)
        if not words:
            return Alignment(rejected="no-text", detail="nothing in the text is spoken")
        spoken = [word for item in words for word in item.spoken]
        readings = [self._readings(word) for word in spoken]
        unreadable = [word for word, reading in zip(spoken, readings) if not reading]
        if 2 * len(unreadable) > len(spoken):
            return Alignment(rejected="text-other-script", detail=f"no English letters in {unreadable[0][:40]!r}")
        unknown = [word for word in spoken if not self.lexicon.known(word)]
        # What cannot be read is still spoken: any speech stands in for it.
        variants = [reading or [[ANYTHING]] for reading in readings]
        least = sum(3 * min(map(len, choices)) for choices in variants)
        if least > len(samples) * MODEL_FRAME_RATE / SAMPLE_RATE or len(words) > num_frames:
            seconds = len(samples) / SAMPLE_RATE
            return Alignment(rejected="text-too-long", detail=f"{len(spoken)} words cannot be said in {seconds:.1f} s")
        pieces = self._align_windows(np.asarray(samples, np.float32), variants)
        if pieces is None:
            return Alignment(rejected="alignment-failed", detail="no path through the recording", unknown=unknown)
        times, score = _combine(words, pieces)
        on_frames = on_grid(words, times, num_frames)
        if on_frames is None:
            return Alignment(rejected="text-too-long", detail=f"{len(words)} words on {num_frames} frames")
        return Alignment(on_frames, score, unknown=unknown, phones=pieces.phones, times=times)

    def _readings(self, word: str) -> list[list[int]]:
        index = self.model.phones.index
        return [[index(phone) for phone in phones] for phones in self.lexicon.pronounce(word) if phones]

    def _align_windows(self, samples: npt.NDArray[np.float32], variants: Sequence[list[list[int]]]) -> _Pieces | None:
        """Align all words, window after window: each takes the words that surely end in it, the next goes on there."""
        pieces = _Pieces()
        position, done = 0, 0
        while done < len(variants):
            last = len(samples) - position <= _WHOLE_S * SAMPLE_RATE
            window = samples[position:] if last else samples[position : position + _WINDOW_S * SAMPLE_RATE]
            offered = variants[done:] if last else variants[done : done + _WINDOW_WORDS]
            features = self._front_end(window)
            if len(features) == 0:
                return None
            path, best = self._search(features, offered, open_end=not last)
            if path is None:
                return None
            limit = len(features) if last else len(features) - _MARGIN_S * MODEL_FRAME_RATE
            cut = done + len(offered) < len(variants)  # the last word offered may really end later
            taken, end = _take(path, len(offered) - cut, limit)
            end = len(path) if last else end
            self._record(pieces, path[:end], best, position / SAMPLE_RATE, taken)
            done += taken
            # Without a word, go on where the next one cannot have begun unseen.
            stop = path[end - 1].end if end else limit
            position += round(stop * SAMPLE_RATE / MODEL_FRAME_RATE)
        return pieces

    def _search(
        self, features: Floats, variants: Sequence[list[list[int]]], *, open_end: bool
    ) -> tuple[list[PhoneSpan] | None, Floats]:
        """Best path, and each frame's best log density of any base phone."""
        graph: PhoneGraph = build_graph(self.model, variants, open_end=open_end)
        own = graph.senones[graph.senones < self.model.num_senones]
        chosen = np.union1d(own, self._references)
        densities = self.model.log_likelihoods(features, chosen)
        best: Floats = densities[:, np.searchsorted(chosen, self._references)].max(axis=1)
        densities = np.column_stack([densities, best - _ANYTHING_PENALTY])  # where searchsorted sends ANYTHING
        return viterbi(self.model, graph, densities, np.searchsorted(chosen, graph.senones)), best

    def _record(self, pieces: _Pieces, path: Sequence[PhoneSpan], best: Floats, offset_s: float, words: int) -> None:
        first = len(pieces.spans)
        pieces.spans.extend([(0.0, 0.0)] * words)
        pieces.scores.extend([] for _ in range(words))
        for span in path:
            start_s, end_s = (offset_s + _seconds(frame) for frame in (span.start, span.end))
            pieces.phones.append(
                Phone("?" if span.phone == ANYTHING else self.model.phones[span.phone], start_s, end_s)
            )
            if span.word == GAP:
                continue
            index = first + span.word
            begun = pieces.scores[index]
            pieces.spans[index] = (pieces.spans[index][0] if begun else start_s, end_s)
            if span.phone == ANYTHING:
                continue  # says nothing about the transcript
            excess = (span.log_density - float(best[span.start : span.end].sum())) / (span.end - span.start)
            begun.append(float(np.exp(min(0.0, excess) / _SCALE)))


def _seconds(frame: int) -> float:
    return frame / MODEL_FRAME_RATE + (_FRAME_CENTRE_S if frame else 0.0)


def _take(path: Sequence[PhoneSpan], most: int, limit: int) -> tuple[int, int]:
    """(words, phones of the path) that end by frame `limit`, at most `most` words, whole words only."""
    words = phones = 0
    for index, span in enumerate(path):
        ends_word = span.word != GAP and (index + 1 == len(path) or path[index + 1].word != span.word)
        if ends_word and span.end <= limit and span.word < most:
            words, phones = span.word + 1, index + 1
    return words, phones


def _combine(words: Sequence[NormalisedWord], pieces: _Pieces) -> tuple[list[TimedWord], float]:
    """Spoken words -> words of the text, and the score of all phones together."""
    times = []
    everything: list[float] = []
    parts: Iterator[int] = iter(range(len(pieces.spans)))
    for word in words:
        indices = [next(parts) for _ in word.spoken]
        scores = [score for index in indices for score in pieces.scores[index]]
        everything.extend(scores)
        times.append(
            TimedWord(pieces.spans[indices[0]][0], pieces.spans[indices[-1]][1], sum(scores) / max(len(scores), 1))
        )
    return times, sum(everything) / max(len(everything), 1)


@cache
def pocketsphinx_fingerprint() -> str:
    """SHA-256 of the acoustic model, the dictionary, the letter-to-sound rules and the version of the method."""
    import hashlib
    from importlib.util import find_spec

    from lst.errors import LstError
    from lst.manifest import sha256_file

    package = find_spec("pocketsphinx")
    if package is None or not package.origin:
        raise LstError("The package pocketsphinx is not installed.", hint="Install lst again: it is a dependency.")
    model = Path(package.origin).parent / "model" / "en-us"
    names = ("mdef", "means", "variances", "transition_matrices", "sendump", "feat.params")
    files = [*(model / "en-us" / name for name in names), model / "cmudict-en-us.dict", LETTERS_EN]
    return hashlib.sha256("\n".join([METHOD, *map(sha256_file, files)]).encode()).hexdigest()
