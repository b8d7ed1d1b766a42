"""From an aligned utterance to a document of alternating speech and text (paper, section 3; `docs/interleaving.md`).

Layouts, `<end>` closing every document so that stopping is learnt:

    interleaved   <s> units <t> text <s> units ... <end>        either modality may come first
    speech        <s> units <end>
    transcript    <t> text <end>
    text          <t> text <end>                                documents of a text manifest
    asr           <s> units <asr> text <end>                    loss on text and <end>
    tts           <t> text <tts> units <end>                    loss on units and <end>

The units of a speech span are those of its words and of **every silence that touches one of them**: the span reaches
from the end of the last text word before it to the start of the first text word after it. As modalities alternate, a
silence between two spans touches just one spoken word, so no unit occurs twice; silence inside a text span is dropped.

A document is planned first (which spans, which patches: enough to pack it) and built when it is needed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from lst.config import StageConfig
from lst.data.patching import BoolArray, Example, IntArray, PatchingConfig, PatchKind, patch_span, piece_cuts
from lst.data.random import generator, uniforms
from lst.data.vocabulary import NUM_UNITS, Vocabulary
from lst.data.word_targets import NO_WORD, word_targets
from lst.errors import LstError

Task = Literal["interleaved", "speech", "transcript", "asr", "tts"]
"""What an utterance becomes."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """A row of `lst.pairs/1` as arrays: u units, w words, m text tokens.

    `units` (u,) uint16; `starts`, `ends` (w,) int32: words in frames, end exclusive, sorted, not overlapping;
    `tokens` (m,) int32; `token_starts`, `token_ends` (w,) int32: each word's range of tokens, tiling 0..m.
    """

    id: str
    units: NDArray[np.uint16]
    starts: IntArray
    ends: IntArray
    tokens: IntArray
    token_starts: IntArray
    token_ends: IntArray

    @property
    def num_words(self) -> int:
        return len(self.starts)

    def unit_range(self, first: int, last: int) -> tuple[int, int]:
        """Units of the spoken words first..last-1 and of the silence on both sides of them."""
        start = int(self.ends[first - 1]) if first else 0
        stop = int(self.starts[last]) if last < len(self.starts) else len(self.units)
        return start, stop

    def token_range(self, first: int, last: int) -> tuple[int, int]:
        """Text tokens of the words first..last-1."""
        return int(self.token_starts[first]), int(self.token_ends[last - 1])


class SpanConfig(StageConfig):
    """How long the spans of an interleaved document are, in words.

    Each text span has a uniformly drawn number of words, each speech span about `speech_ratio` times the number drawn
    for the text span beside it, rounded at random. A short utterance caps the draw at two thirds of its words, so that
    whatever has two words has both modalities.
    """

    min_text_words: int = Field(default=4, ge=1, description="shortest text span, in words")
    max_text_words: int = Field(default=16, ge=1, description="longest text span, in words")
    speech_ratio: float = Field(
        default=0.5, gt=0, le=4, description="speech span relative to text span, in words (paper: 1/2)"
    )
    speech_only: float = Field(
        default=0.0, ge=0, le=1, description="share of utterances that stay speech from end to end"
    )

    @model_validator(mode="after")
    def _ordered(self) -> "SpanConfig":
        if self.max_text_words < self.min_text_words:
            raise ValueError(f"max_text_words ({self.max_text_words}) is below min_text_words ({self.min_text_words})")
        return self


class PieceConfig(StageConfig):
    """For asr and tts: of a share of the utterances a few words in a row stand for the whole.

    Which units make which word is learnt much sooner from a few words than from a minute of them.
    """

    share: float = Field(default=0.5, ge=0, le=1, description="utterances that are cut, each epoch others")
    max_words: int = Field(default=8, ge=1, description="a piece has 1 to so many words, drawn uniformly")


def disturbed(units: NDArray[np.uint16], share: float, random: np.random.Generator) -> NDArray[np.uint16]:
    """`units` (n,) with about a `share` of them replaced by any other, left out, or said twice, a third each.

    As another voice or a moment's noise would: a small model learns few hours of speech by heart otherwise.
    """
    chance = random.random(len(units))
    others = random.integers(0, NUM_UNITS, len(units)).astype(units.dtype)
    heard = np.where(chance < share / 3, others, units)
    times = np.ones(len(units), dtype=np.int64)
    times[(chance >= share / 3) & (chance < 2 * share / 3)] = 0
    times[(chance >= 2 * share / 3) & (chance < share)] = 2
    return np.repeat(heard, times) if times.any() else units


@dataclass(frozen=True, slots=True)
class WordSpan:
    """Words `first`..`last`-1 as speech or as text."""

    speech: bool
    first: int
    last: int


def draw_spans(num_words: int, config: SpanConfig, seed: int, epoch: int, row_id: str) -> list[WordSpan]:
    """Cut the words of an utterance into alternating spans: a pure function of (seed, epoch, row id)."""
    cap = max(1, 2 * num_words // 3)
    low, high = min(config.min_text_words, cap), min(config.max_text_words, cap)
    cycles = 1 + num_words // (low + 1)
    all_speech, first_modality, *draws = uniforms(2 + 2 * cycles, "spans", seed, epoch, row_id)
    if all_speech < config.speech_only or num_words == 0:
        return [WordSpan(True, 0, num_words)]
    speech_first = first_modality < 0.5
    spans = []
    start = 0
    for cycle in range(cycles):
        text = low + int(draws[2 * cycle] * (high - low + 1))
        speech = max(1, int(text * config.speech_ratio + draws[2 * cycle + 1]))
        for is_speech in (speech_first, not speech_first):
            stop = min(num_words, start + (speech if is_speech else text))
            if stop > start:
                spans.append(WordSpan(is_speech, start, stop))
            start = stop
    return spans


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a document: ids, and their patches (None: every token is a closed patch of its own).

    `ids`: vocabulary ids of text or controls, or units (0-based) where `kind` is "speech". `target`: whether its tokens
    are prediction targets. `frames`: the speech units it stands for (with a unit BPE more than there are ids). `words`
    (patches, 2): what `lst.data.word_targets` asks of its patches.
    """

    kind: Literal["control", "text", "speech"]
    ids: NDArray[Any]
    lengths: IntArray | None = None
    closed: BoolArray | None = None
    target: bool = True
    frames: int = 0
    words: IntArray | None = None

    @property
    def patches(self) -> int:
        return len(self.ids) if self.lengths is None else len(self.lengths)


@dataclass(frozen=True, slots=True)
class Plan:
    """A document before it is built: enough to pack it and to count what is in it.

    `tokens`: ids, controls included; `units`: 25 Hz speech units behind them; `text_tokens`: text pieces;
    `global_units`: patches of all kinds, the document's length for the global transformer; `truncated`: whether its
    end was dropped to fit a row.
    """

    id: str
    segments: tuple[Segment, ...]
    unit_offset: int
    tokens: int
    units: int
    text_tokens: int
    global_units: int
    speech_patches: int
    truncated: bool

    def build(self) -> Example:
        """Lay the document out as ids, patch lengths and masks."""
        tokens, lengths, closed = [], [], []
        for part in self.segments:
            tokens.append(part.ids.astype(np.int32) + self.unit_offset if part.kind == "speech" else part.ids)
            if part.lengths is None or part.closed is None:
                lengths.append(np.ones(len(part.ids), dtype=np.int32))
                closed.append(np.ones(len(part.ids), dtype=np.bool_))
            else:
                lengths.append(part.lengths)
                closed.append(part.closed)
        mask = np.repeat([part.target for part in self.segments], [len(part.ids) for part in self.segments])
        mask[:1] = False  # nothing comes before it that could predict it
        return Example(
            tokens=np.concatenate(tokens).astype(np.int32, copy=False),
            patch_lengths=np.concatenate(lengths),
            closed=np.concatenate(closed),
            loss_mask=mask.astype(np.bool_, copy=False),
            id=self.id,
            words=self._words(),
        )

    def _words(self) -> IntArray | None:
        """(global_units, 2) word targets; None if no part has any."""
        if all(part.words is None for part in self.segments):
            return None
        none = np.full((self.global_units, 2), NO_WORD, dtype=np.int32)
        return np.concatenate([none[: part.patches] if part.words is None else part.words for part in self.segments])


class DocumentMaker:
    """Turns utterances and texts into planned documents for one vocabulary and one patching.

    `piece_weights` (text_size,): characters per text piece, needed by `PatchingConfig(unit="bpe")` only.
    `encode_units`: units -> ids of a unit BPE, needed by the `bpe` baseline only; the vocabulary then counts those ids
    as its units. `limit`: longest document in global units; what is longer loses its end (`Plan.truncated`).
    `name_words`: give the patches of speech word targets (`lst.data.word_targets`).
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        patching: PatchingConfig | None = None,
        spans: SpanConfig | None = None,
        *,
        pieces: PieceConfig | None = None,
        noise: float = 0.0,
        seed: int = 0,
        limit: int | None = None,
        piece_weights: NDArray[np.float64] | None = None,
        encode_units: Callable[[NDArray[np.uint16]], NDArray[np.int32]] | None = None,
        name_words: bool = False,
    ) -> None:
        self.vocabulary = vocabulary
        self.patching = patching or PatchingConfig()
        self.spans = spans or SpanConfig()
        self.pieces = pieces
        self.noise = noise
        self.seed = seed
        self.limit = limit
        self.piece_weights = piece_weights
        self.encode_units = encode_units
        self.name_words = name_words
        if self.patching.needs_alignment and self.patching.unit == "bpe" and piece_weights is None:
            raise LstError("Patches along BPE pieces need the lengths of the text tokenizer's pieces.")
        if noise and self.patching.needs_alignment:
            raise LstError("Noise moves units away from the words they belong to: it goes with static patches or none.")
        if name_words and (noise or encode_units is not None):
            raise LstError("Words can be named where units are as they were heard: without noise, without a unit BPE.")
        if limit is not None and limit < 8:
            raise LstError(f"A row of {limit} global units holds no document.", hint="Use a budget of at least 8.")
        if (self.patching.mode == "bpe") != (encode_units is not None):
            raise LstError("patching.mode bpe and a unit BPE model come together: give both or neither.")
        names = ("text_marker", "speech_marker", "end", "asr", "tts")
        ids = {name: np.array([getattr(vocabulary, name)], dtype=np.int32) for name in names}
        self._control = {name: Segment("control", value) for name, value in ids.items()}
        self._silent_control = {name: Segment("control", value, target=False) for name, value in ids.items()}

    def utterance(self, task: Task, row: Utterance, *, epoch: int = 0, aligned_probability: float = 0.0) -> Plan:
        """Plan an utterance for `task`: a pure function of (seed, epoch, row id, P(u)).

        `aligned_probability`: P(u) from `PatchingConfig.aligned_probability`.
        """
        kind = self._kind(row.id, epoch, aligned_probability)
        control, silent = self._control, self._silent_control
        words = row.num_words
        if task == "interleaved":
            parts: list[Segment] = []
            for span in draw_spans(words, self.spans, self.seed, epoch, row.id):
                if span.speech:
                    parts += (control["speech_marker"], self._speech(row, span.first, span.last, kind, epoch))
                else:
                    parts += (control["text_marker"], _text(row, span.first, span.last))
            return self._plan(row.id, [*parts, control["end"]])
        if task == "speech":
            return self._plan(
                row.id, [control["speech_marker"], self._speech(row, 0, words, kind, epoch), control["end"]]
            )
        if task == "transcript":
            return self._plan(row.id, [control["text_marker"], _text(row, 0, words), control["end"]])
        first, last = self._piece(row, epoch)
        if task == "asr":
            speech = self._speech(row, first, last, kind, epoch, target=False)
            parts = [silent["speech_marker"], speech, silent["asr"], _text(row, first, last), control["end"]]
            return self._plan(row.id, parts)
        text, speech = _text(row, first, last, target=False), self._speech(row, first, last, kind, epoch)
        return self._plan(row.id, [silent["text_marker"], text, silent["tts"], speech, control["end"]])

    def pieces_of_text(self, num_tokens: int) -> int:
        """How many documents a text of `num_tokens` makes: none if empty, several if it is longer than `limit`."""
        if self.limit is None:
            return min(1, num_tokens)
        return -(-num_tokens // (self.limit - 2))

    def text(self, row_id: str, tokens: IntArray, piece: int = 0) -> Plan:
        """Plan piece `piece` of a text `(m,)`. Every piece opens with `<t>`; only the last one closes with `<end>`."""
        last = piece == self.pieces_of_text(len(tokens)) - 1
        if self.limit is not None:
            width = self.limit - 2
            tokens = tokens[piece * width : (piece + 1) * width]
        parts = [self._control["text_marker"], Segment("text", tokens)]
        return self._plan(row_id, [*parts, self._control["end"]] if last else parts)

    def _piece(self, row: Utterance, epoch: int) -> tuple[int, int]:
        """First and last word (exclusive) of what an asr or tts document holds."""
        words = row.num_words
        if self.pieces is None:
            return 0, words
        cut, length, place = uniforms(3, "piece", self.seed, epoch, row.id)
        if cut >= self.pieces.share:
            return 0, words
        count = min(words, 1 + int(length * self.pieces.max_words))
        first = int(place * (words - count + 1))
        return first, first + count

    def _kind(self, row_id: str, epoch: int, probability: float) -> PatchKind:
        if not 0.0 < probability < 1.0:
            return self.patching.kind(probability, 0.5)
        return self.patching.kind(probability, uniforms(1, "patching", self.seed, epoch, row_id)[0])

    def _speech(
        self, row: Utterance, first: int, last: int, kind: PatchKind, epoch: int, *, target: bool = True
    ) -> Segment:
        start, stop = row.unit_range(first, last)
        units = row.units[start:stop]
        if self.noise and not target:
            units = disturbed(units, self.noise, generator("noise", self.seed, epoch, row.id))
        if self.encode_units is not None:
            return Segment("speech", self.encode_units(units), target=target, frames=len(units))
        if kind == "aligned":
            lengths, closed = self._aligned_patches(row, first, last, epoch)
        else:
            lengths, closed = patch_span(kind, len(units), self.patching, starts=_NONE, ends=_NONE)
        words = word_targets(row, first, last, lengths) if self.name_words else None
        if kind == "none":
            return Segment("speech", units, target=target, frames=len(units), words=words)
        return Segment("speech", units, lengths, closed, target, len(units), words)

    def _aligned_patches(self, row: Utterance, first: int, last: int, epoch: int) -> tuple[IntArray, BoolArray]:
        """Lengths and closedness of the patches along the spoken words first..last-1."""
        start, stop = row.unit_range(first, last)
        starts, ends = row.starts[first:last] - np.int32(start), row.ends[first:last] - np.int32(start)
        cuts = None
        if self.patching.unit == "bpe" and self.piece_weights is not None and last > first:
            low, high = row.token_range(first, last)
            weights = self.piece_weights[row.tokens[low:high]]
            cuts = piece_cuts(starts, ends, row.token_ends[first:last] - row.token_starts[first:last], weights)

        def draws(count: int) -> list[float]:
            return uniforms(count, "perturb", self.seed, epoch, row.id, first)

        return patch_span("aligned", stop - start, self.patching, starts=starts, ends=ends, cuts=cuts, uniforms=draws)

    def _plan(self, row_id: str, parts: Sequence[Segment]) -> Plan:
        tokens = units = text_tokens = patches = speech_patches = 0
        for part in parts:
            count = len(part.ids)
            tokens += count
            if part.kind == "speech":
                steps = count if part.lengths is None else len(part.lengths)
                units += part.frames
                speech_patches += steps
                patches += steps
            else:
                patches += count
                if part.kind == "text":
                    text_tokens += count
        if self.limit is not None and patches > self.limit:
            return replace(self._plan(row_id, _truncate(parts, self.limit)), truncated=True)
        offset = self.vocabulary.unit_offset
        return Plan(row_id, tuple(parts), offset, tokens, units, text_tokens, patches, speech_patches, truncated=False)


_NONE: IntArray = np.empty(0, dtype=np.int32)


def _text(row: Utterance, first: int, last: int, *, target: bool = True) -> Segment:
    if first >= last:
        return Segment("text", _NONE, target=target)
    start, stop = row.token_range(first, last)
    return Segment("text", row.tokens[start:stop], target=target)


def _truncate(parts: Sequence[Segment], limit: int) -> list[Segment]:
    """The first `limit` patches. The document then ends without `<end>`: what was cut off had not ended."""
    kept: list[Segment] = []
    for part in parts:
        room = min(part.patches, limit)
        limit -= room
        if room == part.patches:
            kept.append(part)
        elif room:
            tokens = room if part.lengths is None else int(part.lengths[:room].sum())
            frames = part.frames * tokens // len(part.ids)
            lengths = None if part.lengths is None else part.lengths[:room]
            closed = None if part.closed is None else part.closed[:room]
            words = None if part.words is None else part.words[:room]
            kept.append(Segment(part.kind, part.ids[:tokens], lengths, closed, part.target, frames, words))
        if limit == 0:
            break
    return kept
