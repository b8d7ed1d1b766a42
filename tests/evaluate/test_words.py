import pytest

from lst.errors import LstError
from lst.evaluate import words
from lst.evaluate.words import load_normaliser, simple_normalise, word_errors


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Don't STOP!", "don't stop"),
        ("  'Tis the dogs' day — so_what?  ", "tis the dogs day so what"),
        ("It’s ﬁne", "it's fine"),
        ("...", ""),
    ],
)
def test_simple_normaliser(text: str, plain: str) -> None:
    assert simple_normalise(text) == plain


def test_errors_are_pooled_over_the_corpus() -> None:
    errors = word_errors(["the cat sat on the mat", "yes"], ["The cat sat on a mat.", "no, no!"], normaliser="simple")
    assert (errors.words, errors.substitutions, errors.insertions, errors.deletions) == (7, 2, 1, 0)
    assert errors.wer == pytest.approx(3 / 7)
    assert errors.normaliser == "simple"
    assert errors.jiwer.startswith("4.")


def test_a_transcript_that_does_not_stop_exceeds_one() -> None:
    assert word_errors(["hello"], ["hello " * 50], normaliser="simple").wer == 49


def test_empty_texts() -> None:
    errors = word_errors(["a b", ""], ["", "c"], normaliser="simple")
    assert (errors.words, errors.deletions, errors.insertions) == (2, 2, 1)
    with pytest.raises(LstError, match="no reference words"):
        word_errors(["", "!"], ["a", "b"], normaliser="simple")
    with pytest.raises(LstError, match="2 references but 1"):
        word_errors(["a", "b"], ["a"])


def test_openai_normaliser_where_it_is_installed() -> None:
    pytest.importorskip("transformers")
    name, _ = load_normaliser("auto")
    assert name.startswith("whisper")
    assert word_errors(["It's twenty five"], ["it is 25"]).wer == 0


def test_without_it_auto_falls_back_and_asking_for_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    load_normaliser.cache_clear()
    monkeypatch.setattr(words, "find_spec", lambda name: None)
    assert load_normaliser("auto")[0] == "simple"
    with pytest.raises(LstError, match="not installed"):
        load_normaliser("whisper")
    load_normaliser.cache_clear()
