"""Written text -> the words one hears, with the way back to the text.

A word of the text is what stands between spaces, punctuation included. Each becomes zero or more spoken words ("$5" ->
five dollars); a lone dash or ellipsis joins the word before it. The originals cover the text: only spaces lie between
them, so alignments of spoken words give spans of the text as it was written.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from lst.text.abbreviations import ABBREVIATIONS, LETTER_ABBREVIATIONS, SYMBOLS, UNITS, is_title, roman_value
from lst.text.numbers import CURRENCIES, MAGNITUDES, cardinal, digits, ordinal, speak_figures

_APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼ`´′＇", "'"))
_ELISIONS = frozenset(["'tis", "'twas", "'em", "'til", "'cause", "'bout", "'round", "'n", "'n'", "'twere", "'twill"])
_NUMBERED = frozenset(
    ["chapter", "part", "act", "scene", "volume", "vol.", "book", "section", "war", "phase", "type", "mark", "class"]
)
_LONGEST_TOKEN = 200
_WORD = re.compile(r"(?:[^\W\d_]|[\u0300-\u036f\u0900-\u0dff])+(?:'(?:[^\W\d_]|[\u0300-\u036f])+)*'?")
_PIECE = re.compile(
    r"[$£€¥₹]?\d[\d,]*(?:\.\d+)?(?:(?:st|nd|rd|th)(?![^\W\d_]))?"
    r"|(?:[^\W\d_]|[\u0300-\u036f\u0900-\u0dff]|(?<=\w)'(?=[^\W\d_]))+|[&+=%@#°/§~<>*^|]",
    re.I,
)


@dataclass(frozen=True)
class NormalisedWord:
    """A word of the text as written, text[start_char:end_char], and the words spoken for it (at least one)."""

    original: str
    start_char: int
    end_char: int
    spoken: list[str]


def normalise_words(text: str, language: str = "en") -> list[NormalisedWord]:
    """Words of `text` in order; an empty list if nothing in it is spoken.

    Spoken words are lower case, of letters and apostrophes. Numbers are read in `language` (any that num2words counts
    in); abbreviations, symbols, money, years and Roman numerals in English only.
    """
    tokens = [(match.start(), match.end()) for match in re.finditer(r"\S+", text)]
    written = [text[start:end] for start, end in tokens]
    words: list[NormalisedWord] = []
    lead: int | None = None  # where unspoken tokens before the first word began
    for index, (start, end) in enumerate(tokens):
        spoken = _speak(written, index, language)
        if spoken:
            begin = start if lead is None else lead
            words.append(NormalisedWord(text[begin:end], begin, end, spoken))
            lead = None
        elif words:
            begin = words[-1].start_char
            words[-1] = NormalisedWord(text[begin:end], begin, end, words[-1].spoken)
        elif lead is None:
            lead = start
    return words


def spoken_text(text: str, language: str = "en") -> str:
    """The spoken words of a text, joined by spaces."""
    return " ".join(word for item in normalise_words(text, language) for word in item.spoken)


def fold(word: str) -> str:
    """A word without diacritics, ligatures and width variants: "naïve" -> naive, "ﬁn" -> fin, "Œuvre" -> oeuvre."""
    word = word.lower().replace("œ", "oe").replace("æ", "ae").replace("ß", "ss").replace("ø", "o").replace("ł", "l")
    return "".join(c for c in unicodedata.normalize("NFKD", word) if not unicodedata.combining(c))


def _speak(written: Sequence[str], index: int, language: str) -> list[str]:
    token = unicodedata.normalize("NFKC", written[index].replace("…", " … ")).translate(_APOSTROPHES)
    # Normalisation may have opened spaces inside ("…", full-width signs): speak what lies between them.
    return [
        word
        for part in token.split()
        for piece in _chunks(part)
        for word in _speak_token(piece, written, index, language)
    ]


def _chunks(token: str) -> list[str]:
    """Pieces of bounded length: no rule below need fear a token of a megabyte."""
    if len(token) <= _LONGEST_TOKEN:
        return [token]
    return [token[start : start + _LONGEST_TOKEN] for start in range(0, len(token), _LONGEST_TOKEN)]


def _speak_token(token: str, written: Sequence[str], index: int, language: str) -> list[str]:
    before = _bare(written[index - 1]) if index else ""
    after = _bare(written[index + 1]) if index + 1 < len(written) else ""
    if language == "en":
        special = _speak_abbreviation(token, before, after)
        if special is None:
            special = _speak_roman(_bare(token), before, index > 0 and written[index - 1][:1].isupper())
        if special is not None:
            return special
    core = _bare(token)
    if language == "en" and token.startswith("'") and f"'{core}".lower() in _ELISIONS:
        return [f"'{core}".lower()]
    spoken = _speak_core(core, after, language)
    if language == "en" and before[:1] in CURRENCIES and core.lower() in MAGNITUDES:
        return [*spoken, CURRENCIES[before[0]][1]]  # "$5 million": the unit comes after both
    return spoken


def _bare(token: str) -> str:
    """A token without the punctuation around it; signs that are read stay."""
    start, end = 0, len(token)
    while start < end and not (token[start].isalnum() or token[start] in "$£€¥₹&+=%@#°§"):
        if token[start] == "." and token[start + 1 : start + 2].isdecimal():
            break  # .5
        start += 1
    while end > start and not (token[end - 1].isalnum() or token[end - 1] in "&+=%@°" or _combines(token[end - 1])):
        end -= 1
    return token[start:end]


def _combines(character: str) -> bool:
    return bool(unicodedata.combining(character)) or unicodedata.category(character) in ("Mc", "Mn")


def _speak_core(core: str, after: str, language: str) -> list[str]:
    if not core:
        return []
    english = language == "en"
    if english and core[0] in CURRENCIES and after.lower() in MAGNITUDES:
        return _speak_core(core[1:], "", language)
    figures = speak_figures(core, language)
    if figures is not None:
        return figures
    if _WORD.fullmatch(core):
        return _speak_word(core, english)
    if english and re.fullmatch(r"[\w-]+(?:\.[a-z]{2,})+", core) and not core.replace(".", "").isdecimal():
        parts = core.split(".")
        return [w for i, part in enumerate(parts) for w in ([*["dot"][: i > 0], *_speak_core(part, "", language)])]
    return _speak_pieces(core, language)


def _speak_word(word: str, english: bool) -> list[str]:
    letters = word.replace("'", "")
    if (
        english
        and 1 < len(letters) <= 5
        and letters.isupper()
        and letters.isascii()
        and not set("AEIOUY") & set(letters)
    ):
        return list(letters.lower())  # TV, BBC: nothing to pronounce
    return [word.lower()]


def _speak_pieces(core: str, language: str) -> list[str]:
    """A compound token ("well-known", "AT&T", "4x4", "and/or"): its words, figures and signs one after the other."""
    spoken: list[str] = []
    pieces = _PIECE.findall(core)
    for index, piece in enumerate(pieces):
        if piece[0].isdecimal() or piece[0] in CURRENCIES:
            figures = speak_figures(piece, language)
            if figures is None:
                number = re.sub(r"\D", "", piece)
                known = language == "en"
                figures = digits(number) if known and len(number) > 9 else _number(number, language)
            spoken.extend(figures)
        elif piece in SYMBOLS:
            spoken.extend(SYMBOLS[piece] if language == "en" else ())
        elif language == "en" and index and pieces[index - 1][-1].isdecimal() and piece.lower() in UNITS:
            spoken.extend(UNITS[piece.lower()])
        elif "&" in pieces and len(piece) < 3 and piece.isupper():
            spoken.extend(piece.lower())  # AT&T
        else:
            spoken.extend(_speak_word(piece.strip("'"), language == "en") if piece.strip("'") else ())
    return spoken


def _number(number: str, language: str) -> list[str]:
    from lst.text.numbers import knows_language

    if not number.isdecimal() or not knows_language(language):
        return [number] if number else []
    return cardinal(int(number[:15]), language)


def _speak_abbreviation(token: str, before: str, after: str) -> list[str] | None:
    stripped = token.strip("\"'“”‘’([{)]},;:!?").lower()
    if stripped == "st.":
        return ["saint"] if after[:1].isupper() and not before[:1].isupper() else ["street"]
    if stripped in ("no.", "nos."):
        return [["number"], ["numbers"]][stripped == "nos."] if after[:1].isdecimal() else None
    if stripped in ABBREVIATIONS:
        return list(ABBREVIATIONS[stripped])
    if stripped in ("mr", "mrs", "dr", "ms") and is_title(token) and after[:1].isupper():
        return list(ABBREVIATIONS[f"{stripped}."])
    if stripped in LETTER_ABBREVIATIONS or re.fullmatch(r"(?:[a-z]\.){2,}[a-z]?(?:'s)?", stripped):
        letters = [character for character in stripped.removesuffix("'s") if character.isalpha()]
        return [*letters[:-1], letters[-1] + "'s"] if stripped.endswith("'s") else letters
    return None


def _speak_roman(token: str, before: str, named: bool) -> list[str] | None:
    """ "Chapter IV" -> four, "Henry VIII" -> the eighth; None if the token is no Roman numeral in such a place."""
    value = roman_value(token)
    if value is None:
        return None
    if before.lower() in _NUMBERED:
        return cardinal(value)
    if named and before.isalpha() and len(token) > 1 and before.lower() not in ("the", "a", "and", "of"):
        return ["the", *ordinal(value)]
    return None
