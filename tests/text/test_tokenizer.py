"""The text tokenizer: round trips, word spans, pickling, wrong files."""

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lst.errors import LstError
from lst.text.tokenizer import TextTokenizer
from lst.text.train import train_tokenizer

CORPUS = [
    "Once upon a time there was a little girl named Lily. She loved to play outside in the sun.",
    "One day, Tim and his dog went to the park. They saw 12 birds, 3 cats and 1 big tree!",
    "“Do you like my red ball?” asked Sam. “Yes, I do,” said Mia, and they played until 5 o'clock.",
] * 20

CHARACTERS = st.characters(exclude_categories=["Cs", "Zs", "Zl", "Zp", "Cc"], exclude_characters="\u2581")
WORD = st.text(CHARACTERS, min_size=1, max_size=8)


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer(train_tokenizer(CORPUS, 420))


def without_prefix() -> TextTokenizer:
    import io

    import sentencepiece

    sink = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=sink,
        vocab_size=420,
        model_type="bpe",
        byte_fallback=True,
        add_dummy_prefix=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    return TextTokenizer(sink.getvalue())


def test_training_is_deterministic_and_like_llama(tokenizer: TextTokenizer) -> None:
    again = TextTokenizer(train_tokenizer(CORPUS, 420))
    assert again.fingerprint == tokenizer.fingerprint
    assert again.model == tokenizer.model
    assert tokenizer.vocab_size == 420
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    assert tokenizer.pieces(tokenizer.encode("1024"))[-4:] == ["1", "0", "2", "4"]
    assert tokenizer.pieces(tokenizer.encode("ж"))[-2:] == ["<0xD0>", "<0xB6>"]


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=60))
def test_decode_reverses_encode(tokenizer: TextTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.lists(WORD, max_size=12))
def test_word_spans_tile_the_sentence(tokenizer: TextTokenizer, words: list[str]) -> None:
    tokens, spans = tokenizer.encode_words(words)
    assert tokens == tokenizer.encode(" ".join(words))
    assert len(spans) == len(words)
    assert [start for start, _ in spans] == [0, *(end for _, end in spans[:-1])][: len(words)]
    assert all(start < end for start, end in spans)
    assert (spans[-1][1] if spans else 0) == len(tokens)
    for word, (start, end) in zip(words, spans):
        assert tokenizer.decode(tokens[start:end]) == word


@given(st.lists(st.sampled_from(["Once", "upon", "a", "time,", "little", "Lily.", "12", "o'clock", "ü"]), max_size=8))
def test_models_without_dummy_prefix(words: list[str]) -> None:
    tokenizer = _CACHE.setdefault("bare", without_prefix())
    tokens, spans = tokenizer.encode_words(words)
    assert tokens == tokenizer.encode(" ".join(words))
    assert [tokenizer.decode(tokens[start:end]).strip() for start, end in spans] == words


_CACHE: dict[str, TextTokenizer] = {}


def test_pickles(tokenizer: TextTokenizer) -> None:
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode("Lily loved 3 birds.") == tokenizer.encode("Lily loved 3 birds.")
    assert copy.fingerprint == tokenizer.fingerprint


def test_wrong_ids_and_files(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    with pytest.raises(LstError, match=r"0 \.\. 419"):
        tokenizer.decode([420])
    with pytest.raises(LstError, match=r"0 \.\. 419"):
        tokenizer.decode([-1])
    with pytest.raises(LstError, match="Cannot read"):
        TextTokenizer.from_file(tmp_path / "none.model")
    for content in (b"", b"\x00\x01nonsense", b"{}"):
        (tmp_path / "bad.model").write_bytes(content)
        with pytest.raises(LstError, match=r"bad\.model is (not )?a SentencePiece model"):
            TextTokenizer.from_file(tmp_path / "bad.model")


def test_a_corpus_too_small_says_how_far_it_goes() -> None:
    with pytest.raises(LstError, match="at most"):
        train_tokenizer(["a b c"], 4096)
    with pytest.raises(LstError, match="no text"):
        train_tokenizer(["", "  \n"], 400)
    with pytest.raises(LstError, match="at least"):
        train_tokenizer(CORPUS, 100)
