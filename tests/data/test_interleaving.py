"""Documents: every word once and in order, no unit twice, markers where they belong, the same draws every time."""

import hashlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lst.data.interleaving import DocumentMaker, PieceConfig, SpanConfig, Utterance, disturbed, draw_spans
from lst.data.patching import Example, PatchingConfig
from lst.data.random import Permutation, generator, uniforms
from lst.data.unit_bpe import UnitBpe, train_unit_bpe
from lst.data.vocabulary import Vocabulary
from lst.errors import LstError
from tests.data.synthetic import utterance

VOCABULARY = Vocabulary(50)
WEIGHTS = np.arange(50, dtype=np.float64)
MODES = ("none", "static", "aligned", "mixed")
seeds = st.integers(0, 10_000)


def maker(mode: str = "static", **options: object) -> DocumentMaker:
    return DocumentMaker(VOCABULARY, PatchingConfig(mode=mode, unit="bpe"), piece_weights=WEIGHTS, **options)


def check(example: Example) -> None:
    """What every example promises."""
    assert example.patch_lengths.sum() == len(example.tokens) == len(example.loss_mask)
    assert (example.patch_lengths > 0).all()
    assert len(example.closed) == len(example.patch_lengths)
    assert not example.loss_mask[0]
    assert [a.dtype for a in (example.tokens, example.patch_lengths)] == [np.int32, np.int32]
    assert [a.dtype for a in (example.closed, example.loss_mask)] == [np.bool_, np.bool_]
    # A patch longer than one lies inside one speech span.
    first = np.cumsum(example.patch_lengths) - example.patch_lengths
    unit = VOCABULARY.is_unit(example.tokens)
    assert (np.add.reduceat(unit, first) * 1 == np.where(unit[first], example.patch_lengths, 0)).all()
    assert example.closed[~unit[first]].all()


@given(words=st.integers(1, 60), seed=seeds, low=st.integers(1, 6), extra=st.integers(0, 12), epoch=st.integers(0, 3))
def test_spans_tile_the_words_and_alternate(words: int, seed: int, low: int, extra: int, epoch: int) -> None:
    config = SpanConfig(min_text_words=low, max_text_words=low + extra)
    spans = draw_spans(words, config, seed, epoch, "row")
    assert spans[0].first == 0
    assert spans[-1].last == words
    assert all(a.last == b.first and a.speech != b.speech for a, b in pairwise(spans))
    assert all(span.last > span.first for span in spans)
    assert words < 2 or len(spans) > 1 or config.min_text_words == 1
    assert spans == draw_spans(words, config, seed, epoch, "row")


@given(seed=seeds, words=st.integers(1, 40), mode=st.sampled_from(MODES), epoch=st.integers(0, 3))
def test_a_document_retells_its_utterance(seed: int, words: int, mode: str, epoch: int) -> None:
    row = utterance(np.random.default_rng(seed), words)
    plan = maker(mode, seed=seed).utterance("interleaved", row, epoch=epoch, aligned_probability=0.5)
    example = plan.build()
    check(example)
    assert plan.global_units == example.global_units
    assert plan.tokens == len(example.tokens)
    # Read the document back: which words are text, which units are speech.
    tokens, spans = example.tokens.tolist(), draw_spans(words, SpanConfig(), seed, epoch, row.id)
    used = np.zeros(len(row.units), dtype=int)
    at = 0
    for span in spans:
        assert tokens[at] == (VOCABULARY.speech_marker if span.speech else VOCABULARY.text_marker)
        at += 1
        if span.speech:
            start, stop = row.unit_range(span.first, span.last)
            assert start <= row.starts[span.first]
            assert row.ends[span.last - 1] <= stop
            expected = VOCABULARY.from_units(row.units[start:stop]).tolist()
            used[start:stop] += 1
        else:
            start, stop = row.token_range(span.first, span.last)
            expected = row.tokens[start:stop].tolist()
        assert tokens[at : at + len(expected)] == expected
        at += len(expected)
    assert tokens[at:] == [VOCABULARY.end]
    assert used.max() <= 1  # no unit twice
    for span in spans:  # a frame is missing only if it is in a text word, or in silence between two of them
        if not span.speech:
            continue
        before = row.ends[span.first - 1] if span.first else 0
        after = row.starts[span.last] if span.last < words else len(row.units)
        assert used[before:after].all()


def test_the_same_row_gives_the_same_document_and_epochs_differ() -> None:
    row = utterance(np.random.default_rng(1), 30)
    make = maker("mixed", seed=3)
    documents = [make.utterance("interleaved", row, epoch=e, aligned_probability=0.5).build() for e in (0, 0, 1, 2)]
    np.testing.assert_array_equal(documents[0].tokens, documents[1].tokens)
    np.testing.assert_array_equal(documents[0].patch_lengths, documents[1].patch_lengths)
    assert len({document.tokens.tobytes() for document in documents}) == 3


def test_draws_do_not_move() -> None:
    """A golden value: a change here changes what every existing run reads when it is resumed."""
    name = hashlib.shake_256(b"5:spans1:01:01:a").digest(8)
    assert uniforms(2, "spans", 0, 0, "a")[0] == pytest.approx(int.from_bytes(name, "little") / 2**64)
    spans = draw_spans(25, SpanConfig(), 0, 0, "a")
    assert [(span.speech, span.first, span.last) for span in spans] == [
        (True, 0, 4),
        (False, 4, 12),
        (True, 12, 18),
        (False, 18, 25),
    ]
    assert Permutation(10, "rows")(np.arange(10)).tolist() == [4, 0, 6, 5, 1, 2, 9, 3, 7, 8]
    assert uniforms(1, "a", "bc") != uniforms(1, "ab", "c")
    assert generator("a", 1).random() == generator("a", 1).random() != generator("a", 2).random()


def test_modality_shares_are_those_of_the_paper() -> None:
    """With ten units and 1.3 tokens per word, about 0.77 of the interleaved tokens are units (method, section 3)."""
    rng = np.random.default_rng(0)
    units = tokens = starts_with_speech = 0
    for i in range(400):
        words = int(rng.integers(15, 35))
        spans = draw_spans(words, SpanConfig(), 0, 0, str(i))
        starts_with_speech += spans[0].speech
        spoken = sum(span.last - span.first for span in spans if span.speech)
        units += 10 * spoken
        tokens += 1.3 * (words - spoken)
    assert units / (units + tokens) == pytest.approx(0.77, abs=0.04)
    assert starts_with_speech / 400 == pytest.approx(0.5, abs=0.08)


@given(seed=seeds, words=st.integers(1, 30), mode=st.sampled_from(MODES))
def test_fine_tuning_documents(seed: int, words: int, mode: str) -> None:
    row = utterance(np.random.default_rng(seed), words)
    make, v = maker(mode, seed=seed), VOCABULARY
    units, text = v.from_units(row.units).tolist(), row.tokens.tolist()
    layouts = {
        "asr": ([v.speech_marker, *units, v.asr, *text, v.end], len(units) + 2),
        "tts": ([v.text_marker, *text, v.tts, *units, v.end], len(text) + 2),
        "speech": ([v.speech_marker, *units, v.end], 1),
        "transcript": ([v.text_marker, *text, v.end], 1),
    }
    for task, (expected, first_target) in layouts.items():
        example = make.utterance(task, row, aligned_probability=0.5).build()
        check(example)
        assert example.tokens.tolist() == expected
        assert np.flatnonzero(example.loss_mask).tolist() == list(range(first_target, len(expected)))


@given(seed=seeds, words=st.integers(1, 40), most=st.integers(1, 12), mode=st.sampled_from(MODES))
def test_a_piece_is_some_words_with_their_own_units(seed: int, words: int, most: int, mode: str) -> None:
    row = utterance(np.random.default_rng(seed), words)
    make = maker(mode, seed=seed, pieces=PieceConfig(share=1.0, max_words=most))
    spans = set()
    for epoch in range(4):
        heard, said = (make.utterance(task, row, epoch=epoch, aligned_probability=0.5) for task in ("asr", "tts"))
        check(heard.build())
        first, last = make._piece(row, epoch)
        assert 1 <= last - first <= most
        for plan in (heard, said):
            text, speech = (next(p.ids for p in plan.segments if p.kind == kind) for kind in ("text", "speech"))
            low, high = row.token_range(first, last)
            assert (text == row.tokens[low:high]).all()
            low, high = row.unit_range(first, last)
            assert (speech == row.units[low:high]).all()
        spans.add((first, last))
    assert words < 20 or len(spans) > 1
    whole = maker(mode, seed=seed, pieces=PieceConfig(share=0.0))
    assert whole.utterance("asr", row).tokens == maker(mode, seed=seed).utterance("asr", row).tokens
    assert make.utterance("interleaved", row).tokens == maker(mode, seed=seed).utterance("interleaved", row).tokens


def test_speech_only_share() -> None:
    config = SpanConfig(speech_only=0.3)
    whole = [len(draw_spans(20, config, 0, 0, str(i))) == 1 for i in range(500)]
    assert np.mean(whole) == pytest.approx(0.3, abs=0.06)
    assert draw_spans(20, SpanConfig(speech_only=1.0), 0, 0, "a")[0].speech


@given(length=st.integers(1, 300), limit=st.integers(8, 60))
def test_a_long_text_is_divided_without_loss(length: int, limit: int) -> None:
    make = DocumentMaker(VOCABULARY, limit=limit)
    tokens = (np.arange(length) % 50).astype(np.int32)
    pieces = [make.text("doc", tokens, piece) for piece in range(make.pieces_of_text(length))]
    examples = [piece.build() for piece in pieces]
    assert not any(piece.truncated for piece in pieces)
    assert all(1 < example.global_units <= limit for example in examples)
    assert all(example.tokens[0] == VOCABULARY.text_marker for example in examples)
    assert [example.tokens[-1] == VOCABULARY.end for example in examples] == [False] * (len(examples) - 1) + [True]
    text = np.concatenate([example.tokens[VOCABULARY.is_text(example.tokens)] for example in examples])
    np.testing.assert_array_equal(text, tokens)


@given(seed=seeds, words=st.integers(1, 40), mode=st.sampled_from(MODES), limit=st.integers(8, 80))
def test_a_long_utterance_is_cut_at_a_patch_and_counted(seed: int, words: int, mode: str, limit: int) -> None:
    row = utterance(np.random.default_rng(seed), words)
    whole = maker(mode).utterance("interleaved", row, aligned_probability=0.5)
    cut = maker(mode, limit=limit).utterance("interleaved", row, aligned_probability=0.5)
    assert cut.truncated == (whole.global_units > limit)
    assert cut.global_units == min(whole.global_units, limit)
    example, full = cut.build(), whole.build()
    check(example)
    assert len(example.patch_lengths) == cut.global_units
    np.testing.assert_array_equal(example.tokens, full.tokens[: len(example.tokens)])
    np.testing.assert_array_equal(example.closed, full.closed[: cut.global_units])
    assert cut.units == int(VOCABULARY.is_unit(example.tokens).sum())
    assert cut.text_tokens == int(VOCABULARY.is_text(example.tokens).sum())


def test_no_text_no_piece() -> None:
    assert DocumentMaker(VOCABULARY).pieces_of_text(0) == 0
    assert DocumentMaker(VOCABULARY).pieces_of_text(1000) == 1


@pytest.fixture(scope="module")
def unit_bpe() -> UnitBpe:
    rng = np.random.default_rng(0)
    return train_unit_bpe((np.repeat(rng.integers(0, 20, 60), 3).astype(np.uint16) for _ in range(50)), size=600)


def test_unit_bpe_round_trips_and_shortens(unit_bpe: UnitBpe) -> None:
    seen = np.repeat(np.random.default_rng(1).integers(0, 20, 60), 3).astype(np.uint16)
    ids = unit_bpe.encode(seen)
    assert len(ids) < len(seen)
    everything = np.arange(501, dtype=np.uint16)
    for units in (seen, everything, everything[:0]):
        np.testing.assert_array_equal(unit_bpe.decode(unit_bpe.encode(units)), units)
    copy = UnitBpe(unit_bpe.model)
    assert (copy.fingerprint, copy.size) == (unit_bpe.fingerprint, unit_bpe.size)


def test_unit_bpe_refuses_what_it_cannot_hold(unit_bpe: UnitBpe) -> None:
    with pytest.raises(LstError, match="not in the unit BPE"):
        unit_bpe.encode(np.array([501], dtype=np.uint16))
    with pytest.raises(LstError, match="must lie in"):
        unit_bpe.decode(np.array([unit_bpe.size]))
    with pytest.raises(LstError, match="not a unit BPE"):
        UnitBpe(b"nonsense")
    with pytest.raises(LstError, match="cannot hold"):
        train_unit_bpe([], size=500)
    with pytest.raises(LstError, match="no units"):
        train_unit_bpe([], size=600)


def test_bpe_baseline_documents(unit_bpe: UnitBpe) -> None:
    vocabulary = Vocabulary(50, unit_bpe.size)
    make = DocumentMaker(vocabulary, PatchingConfig(mode="bpe"), encode_units=unit_bpe.encode)
    row = utterance(np.random.default_rng(0), 20)
    plan = make.utterance("speech", row)
    example = plan.build()
    ids = example.tokens[1:-1] - vocabulary.unit_offset
    np.testing.assert_array_equal(unit_bpe.decode(ids), row.units)
    assert plan.units == len(row.units)
    assert (example.patch_lengths == 1).all()


def test_contradictions_are_refused() -> None:
    with pytest.raises(LstError, match="give both or neither"):
        DocumentMaker(VOCABULARY, PatchingConfig(mode="bpe"))
    with pytest.raises(LstError, match="pieces"):
        DocumentMaker(VOCABULARY, PatchingConfig(mode="aligned", unit="bpe"))
    with pytest.raises(LstError, match="holds no document"):
        DocumentMaker(VOCABULARY, limit=4)
    with pytest.raises(ValidationError):
        SpanConfig(min_text_words=5, max_text_words=4)


@given(size=st.integers(1, 3000), name=st.text(max_size=5))
def test_permutations_are_permutations(size: int, name: str) -> None:
    image = Permutation(size, name)(np.arange(size))
    assert sorted(image.tolist()) == list(range(size))


def test_permutations_shuffle() -> None:
    image = Permutation(10_000, "x")(np.arange(10_000))
    assert abs(np.corrcoef(np.arange(10_000), image)[0, 1]) < 0.05
    assert np.mean(image == np.arange(10_000)) < 0.01
    assert Permutation(1 << 40, "x")(np.arange(5)).max() > 1 << 36  # far beyond what could be stored


def test_utterance_ranges() -> None:
    """Silence belongs to the spoken word that it touches."""
    empty = np.zeros(0, dtype=np.int32)
    starts, ends = np.array([2, 6], dtype=np.int32), np.array([5, 8], dtype=np.int32)
    row = Utterance("a", np.zeros(10, dtype=np.uint16), starts, ends, empty, empty, empty)
    assert row.unit_range(0, 1) == (0, 6)
    assert row.unit_range(1, 2) == (5, 10)
    assert row.unit_range(0, 2) == (0, 10)
    assert row.num_words == 2


@given(seeds, st.integers(1, 300), st.floats(0.0, 0.99))
def test_disturbed_units_are_units_and_never_none(seed: int, count: int, share: float) -> None:
    units = np.arange(count, dtype=np.uint16)
    heard = disturbed(units, share, generator("test", seed))
    assert heard.dtype == np.uint16
    assert 1 <= len(heard) <= 2 * count
    assert heard.max() < 501
    again = disturbed(units, share, generator("test", seed))
    assert (heard == again).all()
    if share == 0.0:
        assert (heard == units).all()


def test_about_the_share_is_disturbed_a_third_each_way() -> None:
    units = np.full(30_000, 500, dtype=np.uint16)
    heard = disturbed(units, 0.3, generator("test", 0))
    replaced = (heard != 500).sum() / len(units)
    assert 0.095 < replaced < 0.105
    assert abs(len(heard) - len(units)) < 300  # as many left out as doubled


def test_noise_changes_what_is_heard_and_nothing_else() -> None:
    row = utterance(np.random.default_rng(1), 40)
    clean, noisy = maker("static"), maker("static", noise=0.3)
    heard = [noisy.utterance("asr", row, epoch=epoch).build() for epoch in (0, 0, 1)]
    plain = clean.utterance("asr", row).build()
    for example in heard:
        check(example)
        assert (example.tokens[example.loss_mask] == plain.tokens[plain.loss_mask]).all()
    assert (heard[0].tokens == heard[1].tokens).all()
    assert heard[0].tokens.tolist() != heard[2].tokens.tolist()
    assert heard[0].tokens.tolist() != plain.tokens.tolist()
    for task in ("tts", "speech", "interleaved"):
        same = [make.utterance(task, row).build().tokens.tolist() for make in (clean, noisy)]
        assert same[0] == same[1]


def test_noise_does_not_go_with_aligned_patches() -> None:
    with pytest.raises(LstError, match="Noise"):
        maker("aligned", noise=0.1)
