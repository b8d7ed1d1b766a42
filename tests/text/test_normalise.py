"""Normalisation: what is spoken for what is written, and the way back."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lst.text.normalise import fold, normalise_words, spoken_text
from lst.text.numbers import cardinal, ordinal, speak_figures, year

CASES = {
    "Mr. Smith met Dr. Jones.": "mister smith met doctor jones",
    "Pay $12.50 for 3 apples & 1/2 pie.": "pay twelve dollars and fifty cents for three apples and one half pie",
    "$5 million, £1 and $.50": "five million dollars one pound and fifty cents",
    "In 1984, by 1905 or 1900; 2005 and 2000": (
        "in nineteen eighty four by nineteen oh five or nineteen hundred two thousand five and two thousand"
    ),
    "the 1990s and '90s": "the nineteen nineties and nineties",
    "on Jan. 5th at 5:30 p.m.": "on january fifth at five thirty p m",
    "3.14, .5 and 1,234": "three point one four zero point five and one thousand two hundred thirty four",
    "50% off — wow…": "fifty percent off wow",
    "I HAD to INSPECT it": "i had to inspect it",
    "St. Paul lived on Main St. too": "saint paul lived on main street too",
    "No. 5? No.": "number five no",
    "King Henry VIII, Chapter IV. I went": "king henry the eighth chapter four i went",
    "well-known AT&T, 12kg, mp3": "well known a t and t twelve kilograms mp three",
    "‘Tis the dogs’ rock 'n' roll, don’t": "'tis the dogs rock 'n roll don't",
    "U.S.A. and BBC TV": "u s a and b b c t v",
    "007 555-1234 1914-18": "zero zero seven five five five one two three four nineteen fourteen to eighteen",
    "off—wow!": "off wow",
    "name@example.com": "name at example com",
    "one enormous": "one enormous",
}


@pytest.mark.parametrize("written", CASES)
def test_spoken(written: str) -> None:
    assert spoken_text(written) == CASES[written]


@given(st.one_of(st.text(max_size=80), st.text(st.sampled_from("aB'’ .,-—…$£1209%&:/thst()\"I V\n"), max_size=60)))
def test_the_text_comes_back(text: str) -> None:
    words = normalise_words(text)
    position = 0
    for word in words:
        assert text[word.start_char : word.end_char] == word.original
        assert text[position : word.start_char].strip() == ""
        assert word.original == word.original.strip()
        assert word.spoken
        assert all(part and part == part.lower() and not re.search(r"\s", part) for part in word.spoken)
        position = word.end_char
    if words:
        assert text[position:].strip() == ""


@given(st.integers(0, 10**16))
def test_every_number_is_spoken(value: int) -> None:
    for form in (str(value), f"{value:,}", f"${value}"):
        spoken = spoken_text(form)
        assert spoken
        assert not re.search(r"[^a-z ']", spoken)


def test_offsets_are_those_of_the_text() -> None:
    text = "  “Hello,” — she\nsaid… $3 "
    words = normalise_words(text)
    assert [(word.original, word.spoken) for word in words] == [
        ("“Hello,” —", ["hello"]),
        ("she", ["she"]),
        ("said…", ["said"]),
        ("$3", ["three", "dollars"]),
    ]


def test_nothing_spoken() -> None:
    for text in ("", " \n", "...", "— !", "*** ???"):
        assert normalise_words(text) == []


def test_leading_dash_joins_the_first_word() -> None:
    assert [word.original for word in normalise_words("— Yes")] == ["— Yes"]


def test_other_languages_keep_their_words_and_count_in_them() -> None:
    assert spoken_text("Ich habe 21 Äpfel.", "de") == "ich habe einundzwanzig äpfel"
    assert spoken_text("Привет, мир!") == "привет мир"
    assert spoken_text("日本語 हिन्दी") == "日本語 हिन्दी"
    assert spoken_text("No. 5 xx 12", "tlh") == "no 5 xx 12"


def test_fold() -> None:
    assert [fold(word) for word in ("Naïve", "Œuvre", "Straße", "ﬁn")] == ["naive", "oeuvre", "strasse", "fin"]


def test_enormous_tokens_take_linear_time() -> None:
    assert len("".join(normalise_words("a" * 200_000)[0].spoken)) == 200_000
    assert normalise_words("1" * 100_000)
    assert normalise_words("a.b" * 50_000)
    assert normalise_words("($1," * 50_000)


def test_numbers() -> None:
    assert cardinal(10**15) == ["one", *["zero"] * 15]
    assert ordinal(21) == ["twenty", "first"]
    assert year(1066) == ["ten", "sixty", "six"]
    assert speak_figures("abc") is None
    assert speak_figures("$") is None
    assert speak_figures("7/8") == ["seven", "eighths"]
    assert speak_figures("1/200") == ["one", "over", "two", "hundred"]
