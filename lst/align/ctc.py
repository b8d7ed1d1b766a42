"""CTC alignment with wav2vec 2.0 (Kürzinger et al. 2020), any alphabet.

1. Emissions: log probabilities of the characters, 50 frames a second, from overlapping windows, so that memory does
   not grow with the recording (beyond its samples and T x labels floats).
2. Targets: the spoken words in the model's alphabet, its word sign between them. A word that has no character of the
   alphabet is a star: any speech.
3. `torchaudio.functional.forced_align`; beyond five minutes, the same search in numpy, piece by piece with an open end.
4. Score of a word: mean posterior probability of its characters over their frames. Score of the whole: exp(-c), c being
   how much less likely, per character, its path is than the likeliest label of every frame.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lst.align.base import Aligner, Alignment, Phone, TimedWord, on_grid
from lst.align.checkpoints import CTCCheckpoint, checkpoint_fingerprint, is_special, load_checkpoint
from lst.constants import SAMPLE_RATE
from lst.text.normalise import NormalisedWord, fold

Floats = npt.NDArray[np.float32]

WINDOW_S = 30
OVERLAP_S = 3
WHOLE_S = 300
"""Recordings up to this length are searched in one piece: forced_align keeps a table of frames x characters."""
PIECE_S = 60
MARGIN_S = 8
PIECE_WORDS = 360


@dataclass(frozen=True)
class Targets:
    """Labels to align, in order, and the spoken word each belongs to (-1: the sign between words)."""

    labels: npt.NDArray[np.int64]
    words: npt.NDArray[np.int64]


@dataclass(frozen=True)
class TokenSpan:
    """A target's stretch of frames [start, end) and its mean posterior probability there."""

    start: int
    end: int
    score: float


class CTCAligner(Aligner):
    """Forced alignment by a wav2vec 2.0 model with a CTC head."""

    def __init__(self, checkpoint: CTCCheckpoint, *, name: str, fingerprint: str, language: str = "en") -> None:
        self.checkpoint = checkpoint
        self.name = name
        self.fingerprint = fingerprint
        self.language = language
        self.star = len(checkpoint.labels)
        letters = {label: index for index, label in enumerate(checkpoint.labels) if not is_special(label)}
        letters = {
            label: index for label, index in letters.items() if index not in (checkpoint.blank, checkpoint.delimiter)
        }
        # Models have one case; text comes in lower case.
        self._letters = {**{label.lower(): index for label, index in letters.items()}, **letters}

    @classmethod
    def from_checkpoint(cls, path: Path, *, name: str, language: str | None = None) -> "CTCAligner":
        """Load a checkpoint (`lst.align.checkpoints`). Raises LstError if it cannot be used.

        `language` decides how numbers are read; else the checkpoint does.
        """
        checkpoint = load_checkpoint(path)
        return cls(
            checkpoint,
            name=name,
            fingerprint=checkpoint_fingerprint(path),
            language=language or checkpoint.language,
        )

    @property
    def frame_s(self) -> float:
        """Seconds between frames of the model, 0.02 for wav2vec 2.0."""
        return self.checkpoint.stride / SAMPLE_RATE

    def align(self, samples: npt.NDArray[np.float32], text: str, num_frames: int) -> Alignment:
        """See `Aligner.align`. Reasons: no-text, text-other-script, text-too-long, alignment-failed."""
        words = self.read(text)
        if not words:
            return Alignment(rejected="no-text", detail="nothing in the text is spoken")
        spoken = [word for item in words for word in item.spoken]
        spelled = [self.spell(word) for word in spoken]
        unknown = [word for word, labels in zip(spoken, spelled) if not labels]
        if 2 * len(unknown) > len(spoken):
            return Alignment(
                rejected="text-other-script", detail=f"{unknown[0][:40]!r} is outside the model's alphabet"
            )
        frames = max(0, (len(samples) - self.checkpoint.receptive_field) // self.checkpoint.stride + 1)
        if sum(max(1, len(labels)) for labels in spelled) > frames or len(words) > num_frames:
            seconds = len(samples) / SAMPLE_RATE
            return Alignment(rejected="text-too-long", detail=f"{len(spoken)} words cannot be said in {seconds:.1f} s")
        emissions = self.emissions(np.asarray(samples, np.float32))
        spans = self.search(emissions, spelled)
        if spans is None:
            return Alignment(rejected="alignment-failed", detail="no path through the recording", unknown=unknown)
        return self._result(words, spelled, spans, unknown, num_frames, self.score(emissions, spans))

    def spell(self, word: str) -> list[int]:
        """Labels of a spoken word; characters outside the alphabet are left out, after dropping their diacritics."""
        labels = []
        for character in word:
            found = self._letters.get(character)
            if found is not None:
                labels.append(found)
            else:
                labels.extend(self._letters[plain] for plain in fold(character) if plain in self._letters)
        return labels

    def emissions(self, samples: Floats) -> Floats:
        """(T, labels) log probabilities, whole windows of WINDOW_S seconds overlapping by OVERLAP_S on each side."""
        import torch

        if self.checkpoint.normalize and len(samples):
            mean, deviation = samples.mean(dtype=np.float64), samples.std(dtype=np.float64)
            samples = ((samples - mean) / np.sqrt(deviation**2 + 1e-7)).astype(np.float32)
        stride, field = self.checkpoint.stride, self.checkpoint.receptive_field
        frames = max(0, (len(samples) - field) // stride + 1)
        window, overlap = (round(seconds * SAMPLE_RATE / stride) for seconds in (WINDOW_S, OVERLAP_S))
        output = np.empty((frames, len(self.checkpoint.labels)), np.float32)
        with torch.inference_mode():
            for first in range(0, frames, window):
                begin, end = max(0, first - overlap), min(frames, first + window + overlap)
                # The last window takes the samples that fill no frame too: group norms count them.
                stop = len(samples) if end == frames else (end - 1) * stride + field
                chunk = torch.from_numpy(samples[begin * stride : stop].copy())
                logits, _ = self.checkpoint.model(chunk[None])
                kept = torch.log_softmax(logits[0].float(), dim=-1)[first - begin : first - begin + window]
                output[first : first + window] = kept.numpy()
        return output

    def with_star(self, emissions: Floats) -> Floats:
        """Emissions with one more label, the star: as likely as the likeliest character in each frame."""
        return np.column_stack([emissions, np.delete(emissions, self.checkpoint.blank, axis=1).max(axis=1)])

    def targets(self, spelled: Sequence[Sequence[int]]) -> Targets:
        """Labels of words with the model's word sign between them, a star for words it cannot spell."""
        labels: list[int] = []
        words: list[int] = []
        for index, word in enumerate(spelled):
            if index and self.checkpoint.delimiter is not None:
                labels.append(self.checkpoint.delimiter)
                words.append(-1)
            labels.extend(word or [self.star])
            words.extend([index] * max(1, len(word)))
        return Targets(np.array(labels, np.int64), np.array(words, np.int64))

    def search(self, emissions: Floats, spelled: Sequence[Sequence[int]]) -> list[tuple[int, TokenSpan]] | None:
        """(label, span) for every character of every word, in order; None if there is no path."""
        scores = self.with_star(emissions)
        blank = self.checkpoint.blank
        if len(scores) * self.frame_s <= WHOLE_S:
            targets = self.targets(spelled)
            spans = align_targets(scores, targets.labels, blank)
            if spans is None:
                return None
            pairs = zip(targets.labels.tolist(), targets.words.tolist(), spans)
            return [(label, span) for label, word, span in pairs if word >= 0]
        return self._search_pieces(scores, spelled)

    def _search_pieces(self, scores: Floats, spelled: Sequence[Sequence[int]]) -> list[tuple[int, TokenSpan]] | None:
        piece, margin = (round(seconds / self.frame_s) for seconds in (PIECE_S, MARGIN_S))
        found: list[tuple[int, TokenSpan]] = []
        position, done = 0, 0
        while done < len(spelled):
            last = len(scores) - position <= 2 * piece
            window = scores[position:] if last else scores[position : position + piece]
            offered = spelled[done:] if last else spelled[done : done + PIECE_WORDS]
            targets = self.targets(offered)
            spans = viterbi_ctc(window, targets.labels, self.checkpoint.blank, open_end=not last)
            if spans is None:
                return None
            limit = len(window) if last else len(window) - margin
            whole = _whole_words(targets, spans, limit)
            if not last and done + len(offered) < len(spelled):
                whole = min(whole, len(offered) - 1)
            stop = limit
            for label, word, span in zip(targets.labels.tolist(), targets.words.tolist(), spans):
                if 0 <= word < whole:
                    found.append((label, TokenSpan(span.start + position, span.end + position, span.score)))
                    stop = span.end
            position += stop
            done += whole
        return found

    def score(self, emissions: Floats, spans: Sequence[tuple[int, TokenSpan]]) -> float:
        """Of the whole, 0 .. 1: what the path through (T, labels) `emissions` loses to the best labels, per character.

        Speech that the transcript lacks costs too, as frames between characters are held to the blank or the sign
        between words. Stars cost nothing and do not count.
        """
        best = emissions.max(axis=1)
        between = emissions[:, self.checkpoint.blank]
        if self.checkpoint.delimiter is not None:
            between = np.maximum(between, emissions[:, self.checkpoint.delimiter])
        loss = (best - between).astype(np.float64)
        heard = 0
        for label, span in spans:
            frames = slice(span.start, span.end)
            if label == self.star:
                loss[frames] = 0
            else:
                loss[frames] = best[frames] - emissions[frames, label]
                heard += 1
        return float(np.exp(-loss.sum() / heard)) if heard else 0.0

    def _result(
        self,
        words: Sequence[NormalisedWord],
        spelled: Sequence[Sequence[int]],
        spans: Sequence[tuple[int, TokenSpan]],
        unknown: list[str],
        num_frames: int,
        score: float,
    ) -> Alignment:
        left = iter(spans)
        counts = iter(max(1, len(labels)) for labels in spelled)
        times = []
        phones = []
        for word in words:
            own = [next(left) for _ in word.spoken for _ in range(next(counts))]
            heard = [span for label, span in own if label != self.star]
            frames = sum(span.end - span.start for span in heard)
            mass = sum(span.score * (span.end - span.start) for span in heard)
            start_s, end_s = own[0][1].start * self.frame_s, own[-1][1].end * self.frame_s
            times.append(TimedWord(start_s, end_s, mass / max(frames, 1)))
            phones += [
                Phone(
                    "?" if label == self.star else self.checkpoint.labels[label],
                    span.start * self.frame_s,
                    span.end * self.frame_s,
                )
                for label, span in own
            ]
        times = shifted(times, self.checkpoint.start_shift_s, self.checkpoint.end_shift_s)
        on_frames = on_grid(words, times, num_frames)
        if on_frames is None:
            return Alignment(rejected="text-too-long", detail=f"{len(words)} words on {num_frames} frames")
        return Alignment(on_frames, score, unknown=unknown, phones=phones, times=times)


def shifted(words: Sequence[TimedWord], start_s: float, end_s: float) -> list[TimedWord]:
    """Words with their starts and ends moved; two that would then overlap meet halfway."""
    starts = [max(0.0, word.start_s + start_s) for word in words]
    ends = [max(start, word.end_s + end_s) for word, start in zip(words, starts)]
    for index in range(1, len(words)):
        if starts[index] < ends[index - 1]:
            starts[index] = ends[index - 1] = (starts[index] + ends[index - 1]) / 2
            ends[index] = max(ends[index], starts[index])
    return [TimedWord(start, end, word.score) for word, start, end in zip(words, starts, ends)]


def align_targets(scores: Floats, labels: npt.NDArray[np.int64], blank: int) -> list[TokenSpan] | None:
    """Spans of `labels` (L,) on the best CTC path through `scores` (T, labels); None if T is too short for them."""
    import torch
    from torchaudio.functional import forced_align, merge_tokens

    repeats = int((labels[1:] == labels[:-1]).sum())
    if len(labels) == 0 or len(labels) + repeats > len(scores):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torchaudio announces a removal that 2.9 itself took back
        path, posteriors = forced_align(
            torch.from_numpy(scores)[None].contiguous(), torch.from_numpy(labels)[None].int(), blank=blank
        )
    merged = merge_tokens(path[0], posteriors[0].exp(), blank=blank)
    return [TokenSpan(int(span.start), int(span.end), float(span.score)) for span in merged]


def viterbi_ctc(
    scores: Floats, labels: npt.NDArray[np.int64], blank: int, *, open_end: bool = False
) -> list[TokenSpan] | None:
    """As `align_targets`, in numpy; with `open_end` the path may stop after any label: spans of the others are empty.

    Time O(T L), memory 2 T L bytes.
    """
    frames, count = len(scores), len(labels)
    if count == 0 or frames == 0:
        return None
    extended = np.full(2 * count + 1, blank, np.int64)
    extended[1::2] = labels
    skip = np.zeros(len(extended), bool)  # from the label before, over the blank, unless the two are equal
    skip[3::2] = labels[1:] != labels[:-1]
    worst = np.float32(-1e30)
    best = np.full(len(extended), worst, np.float32)
    best[:2] = scores[0, extended[:2]]
    arrows = np.zeros((frames, len(extended)), np.uint8)
    for frame in range(1, frames):
        step = np.concatenate([[worst], best[:-1]])
        leap = np.where(skip, np.concatenate([[worst, worst], best[:-2]]), worst)
        choice = np.where(step > best, 1, 0).astype(np.uint8)
        chosen = np.maximum(step, best)
        choice[leap > chosen] = 2
        arrows[frame] = choice
        best = np.maximum(chosen, leap) + scores[frame, extended]
    state = int(best.argmax()) if open_end else int(len(best) - 2 + best[-2:].argmax())
    if best[state] <= worst / 2:
        return None
    return _trace_ctc(arrows, scores, extended, state)


def _trace_ctc(
    arrows: npt.NDArray[np.uint8], scores: Floats, extended: npt.NDArray[np.int64], state: int
) -> list[TokenSpan]:
    frames = len(arrows)
    states = np.empty(frames, np.int64)
    for frame in range(frames - 1, -1, -1):
        states[frame] = state
        state -= int(arrows[frame, state])
    probabilities = np.exp(scores[np.arange(frames), extended[states]])
    spans = []
    for label in range(len(extended) // 2):
        on = np.flatnonzero(states == 2 * label + 1)
        if len(on):
            spans.append(TokenSpan(int(on[0]), int(on[-1]) + 1, float(probabilities[on].mean())))
        else:
            spans.append(TokenSpan(frames, frames, 0.0))
    return spans


def _whole_words(targets: Targets, spans: Sequence[TokenSpan], limit: int) -> int:
    """How many words, from the first, end by frame `limit`."""
    ends: dict[int, int] = {}
    for word, span in zip(targets.words.tolist(), spans):
        # An empty span lies behind the end of the window.
        ends[word] = max(ends.get(word, 0), span.end if span.end > span.start else limit + 1)
    words = 0
    while ends.get(words, limit + 1) <= limit:
        words += 1
    return words
