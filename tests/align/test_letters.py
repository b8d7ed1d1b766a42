"""Letter to sound, and the lexicon in front of it."""

from pathlib import Path

import pytest

from lst.align.letters import fit_letters, load_letters, read_dictionary
from lst.align.pronunciation import english_lexicon
from lst.errors import LstError

SMALL = """cat K AE T
bat B AE T
tab T AE B
cab K AE B
fix F IH K S
mix M IH K S
sit S IH T
fib F IH B
fib(2) F AY B
ship SH IH P
shim SH IH M
hip HH IH P
"""


def test_fits_a_small_dictionary() -> None:
    dictionary = read_dictionary(SMALL.splitlines())
    assert dictionary["fib"] == [("F", "IH", "B"), ("F", "AY", "B")]
    model = fit_letters(dictionary)
    assert model.pronounce("sib")[0] == ("S", "IH", "B")
    assert model.pronounce("six")[0] == ("S", "IH", "K", "S")
    assert model.pronounce("shib")[0] == ("SH", "IH", "B")
    assert fit_letters(dict(reversed(list(dictionary.items())))).counts == model.counts
    assert model.pronounce("zoo") == []
    assert model.pronounce("") == []


def test_saves_and_loads(tmp_path: Path) -> None:
    model = fit_letters(read_dictionary(SMALL.splitlines()))
    for name in ("a.npz", "b.npz"):
        model.save(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    again = load_letters(tmp_path / "a.npz")
    assert (again.pairs, again.counts) == (model.pairs, model.counts)
    (tmp_path / "c.npz").write_bytes(b"PK")
    for name in ("c.npz", "d.npz"):
        with pytest.raises(LstError, match="letter-to-sound"):
            load_letters(tmp_path / name)
    with pytest.raises(LstError, match="no word to learn"):
        fit_letters({})


def test_shipped_rules() -> None:
    rules = load_letters()
    assert ("T", "OW", "K", "AH", "N", "AY", "Z", "ER") in rules.pronounce("tokenizer")
    assert rules.pronounce("llama")[0] == ("L", "AA", "M", "AH")
    assert len(rules.pronounce("borogoves", best=2)) == 2


def test_lexicon() -> None:
    lexicon = english_lexicon()
    assert lexicon.pronounce("hello")[0] == ("HH", "AH", "L", "OW")
    assert lexicon.known("naïve")
    assert lexicon.pronounce("naïve") == lexicon.pronounce("naive")
    assert not lexicon.known("borogoves")
    assert lexicon.pronounce("borogoves's")[0][-2:] == ("IH", "Z")
    assert lexicon.pronounce("waldog's")[0][-1] == "Z"
    spelled = ("EH", "K", "S", "K", "Y", "UW", "ZH", "IY")
    assert any(len(phones) > 5 for phones in lexicon.pronounce("xqj")), spelled
    assert lexicon.pronounce("'") == ()
    assert lexicon.pronounce("привет") == ()
    assert lexicon.pronounce("q" * 300)
