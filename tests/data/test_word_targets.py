"""Word targets: every spoken word is named where it ends, and what comes next at every patch before it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lst.data.batch import pack_examples
from lst.data.interleaving import DocumentMaker, Utterance
from lst.data.patching import PatchingConfig, PatchKind
from lst.data.unit_bpe import train_unit_bpe
from lst.data.vocabulary import Vocabulary
from lst.data.word_targets import ENDED, NEXT, NO_WORD, word_targets
from lst.errors import LstError
from tests.data.synthetic import utterance

VOCABULARY = Vocabulary(50)
MODES: tuple[PatchKind, ...] = ("none", "static", "aligned")
seeds = st.integers(0, 10_000)


def maker(mode: str, **options: object) -> DocumentMaker:
    return DocumentMaker(VOCABULARY, PatchingConfig(mode=mode), name_words=True, **options)  # type: ignore[arg-type]


def name_of(row: Utterance, word: int) -> int:
    """The first token of a word, which may be written with none."""
    start, end = int(row.token_starts[word]), int(row.token_ends[word])
    return int(row.tokens[start]) if end > start else NO_WORD


def expected(row: Utterance, first: int, last: int, lengths: list[int]) -> list[tuple[int, int]]:
    """The definition, word by word."""
    named, stop = [], row.unit_range(first, last)[0]
    for length in lengths:
        begin, stop = stop, stop + length
        ended = [word for word in range(first, last) if begin < row.ends[word] <= stop]
        later = [word for word in range(row.num_words) if row.ends[word] > stop]
        named.append((name_of(row, ended[-1]) if ended else NO_WORD, name_of(row, later[0]) if later else NO_WORD))
    return named


@given(seed=seeds, words=st.integers(1, 12), data=st.data())
def test_they_are_as_defined(seed: int, words: int, data: st.DataObject) -> None:
    row = utterance(np.random.default_rng(seed), words)
    first = data.draw(st.integers(0, words - 1))
    last = data.draw(st.integers(first + 1, words))
    start, stop = row.unit_range(first, last)
    cuts = data.draw(st.sets(st.integers(start + 1, stop - 1), max_size=20)) if stop - start > 1 else set()
    lengths = np.diff([start, *sorted(cuts), stop]).astype(np.int32)
    named = word_targets(row, first, last, lengths)
    assert named.dtype == np.int32
    assert [tuple(pair) for pair in named.tolist()] == expected(row, first, last, lengths.tolist())


def test_a_word_that_is_written_with_nothing_names_nothing() -> None:
    row = utterance(np.random.default_rng(3), 3)
    none = np.zeros(3, dtype=np.int32)
    silent = Utterance(row.id, row.units, row.starts, row.ends, row.tokens[:0], none, none)
    assert (word_targets(silent, 0, 3, np.array([len(row.units)], dtype=np.int32)) == NO_WORD).all()


@given(seed=seeds, mode=st.sampled_from(MODES), task=st.sampled_from(("interleaved", "speech", "asr")))
def test_a_document_names_each_spoken_word_and_nothing_else(seed: int, mode: str, task: str) -> None:
    row = utterance(np.random.default_rng(seed), 14)
    example = maker(mode).utterance(task, row, aligned_probability=1.0).build()  # type: ignore[arg-type]
    assert example.words is not None
    assert example.words.shape == (example.global_units, 2)
    first = np.cumsum(example.patch_lengths) - example.patch_lengths
    speech = np.asarray(VOCABULARY.is_unit(example.tokens[first]))
    assert (example.words[~speech] == NO_WORD).all()
    if task != "interleaved" and mode != "static":  # a static patch may hold two short words' ends
        ended = example.words[example.words[:, ENDED] != NO_WORD, ENDED]
        assert ended.tolist() == [name_of(row, word) for word in range(14)]
    plain = DocumentMaker(VOCABULARY, PatchingConfig(mode=mode))  # type: ignore[arg-type]
    silent = plain.utterance(task, row, aligned_probability=1.0).build()  # type: ignore[arg-type]
    assert silent.words is None
    assert silent.tokens.tolist() == example.tokens.tolist()


@given(seed=seeds, mode=st.sampled_from(MODES), limit=st.integers(8, 40))
def test_a_document_that_loses_its_end_loses_its_words(seed: int, mode: str, limit: int) -> None:
    row = utterance(np.random.default_rng(seed), 20)
    whole = maker(mode).utterance("interleaved", row, aligned_probability=1.0).build()
    cut = maker(mode, limit=limit).utterance("interleaved", row, aligned_probability=1.0).build()
    assert whole.words is not None
    assert cut.words is not None
    assert cut.words.tolist() == whole.words[: cut.global_units].tolist()


def test_packed_words_stand_at_their_patches() -> None:
    spoken = [maker("static").utterance("interleaved", utterance(np.random.default_rng(k), 9)).build() for k in (0, 1)]
    written = maker("static").text("text", np.arange(5, dtype=np.int32)).build()
    packed = pack_examples([[spoken[0], written], [written, spoken[1]]], VOCABULARY)
    assert packed.words is not None
    assert packed.words.shape == (*packed.patch_documents.shape, 2)
    for row, document, example in ((0, 1, spoken[0]), (1, 2, spoken[1])):
        assert example.words is not None
        assert packed.words[row][packed.patch_documents[row] == document].tolist() == example.words.tolist()
    rest = (packed.patch_documents == 0) | packed.patch_is_text
    assert (packed.words[rest] == NO_WORD).all()
    assert (packed.words[..., NEXT] != NO_WORD).any()
    assert pack_examples([[written]], VOCABULARY).words is None


def test_words_of_another_length_are_refused() -> None:
    example = maker("static").utterance("speech", utterance(np.random.default_rng(0), 5)).build()
    assert example.words is not None
    example.words = example.words[:-1]
    with pytest.raises(LstError, match="entries of words"):
        pack_examples([[example]], VOCABULARY)


def test_units_that_are_not_as_heard_have_no_words() -> None:
    with pytest.raises(LstError, match="as they were heard"):
        maker("static", noise=0.1)
    bpe = train_unit_bpe([utterance(np.random.default_rng(k), 30).units for k in range(20)], size=510)
    with pytest.raises(LstError, match="as they were heard"):
        maker("bpe", encode_units=bpe.encode)
