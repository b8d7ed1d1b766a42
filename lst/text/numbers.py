"""Figures as they are read aloud: cardinals, ordinals, years, money, times, fractions.

English rules; in other languages a number is whatever `num2words` says for it, and the rest stays as it is.
"""

import re
from collections.abc import Callable
from functools import cache, lru_cache

CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"),
    "¥": ("yen", "yen", "", ""),
    "₹": ("rupee", "rupees", "paisa", "paise"),
}
MAGNITUDES = frozenset(["hundred", "thousand", "million", "billion", "trillion"])
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_LARGEST = 10**15  # beyond this, digits are read one by one
_DENOMINATORS = {2: "half", 4: "quarter"}


def words_of(text: str) -> list[str]:
    """Spoken words of what num2words wrote: lower case, hyphens and commas as spaces."""
    return re.sub(r"[-,‐]", " ", text.lower()).split()


@lru_cache(maxsize=4096)
def _num2words(value: int, to: str, language: str) -> tuple[str, ...]:
    import num2words

    return tuple(words_of(num2words.num2words(value, lang=language, to=to)))


@cache
def knows_language(language: str) -> bool:
    """Whether num2words can count in `language`."""
    import num2words

    return language in num2words.CONVERTER_CLASSES


def digits(text: str) -> list[str]:
    """Every digit by name: "07" -> zero seven."""
    return [_DIGITS[int(character)] for character in text if character.isdecimal()]


def cardinal(value: int, language: str = "en") -> list[str]:
    """1,234 -> one thousand two hundred and thirty four (without "and" in English)."""
    if value >= _LARGEST:
        return digits(str(value))
    words = list(_num2words(value, "cardinal", language))
    return [word for word in words if word != "and"] if language == "en" else words


def ordinal(value: int, language: str = "en") -> list[str]:
    """21 -> twenty first."""
    if value >= _LARGEST:
        return digits(str(value))
    words = list(_num2words(value, "ordinal", language))
    return [word for word in words if word != "and"] if language == "en" else words


def year(value: int) -> list[str]:
    """1984 -> nineteen eighty four; 1900 -> nineteen hundred; 1905 -> nineteen oh five; 2005 -> two thousand five."""
    century, rest = divmod(value, 100)
    if value < 1000 or (century % 10 == 0 and rest < 10):
        return cardinal(value)
    if rest == 0:
        return [*cardinal(century), "hundred"]
    return [*cardinal(century), *(["oh", *cardinal(rest)] if rest < 10 else cardinal(rest))]


def plural(word: str) -> str:
    """ninety -> nineties, two -> twos."""
    if word.endswith("y"):
        return f"{word[:-1]}ies"
    return f"{word}es" if word.endswith(("x", "s")) else f"{word}s"


def _decade(match: re.Match[str]) -> list[str]:
    value = match["value"]
    words = year(int(value)) if len(value) == 4 else cardinal(int(value))
    return [*words[:-1], plural(words[-1])]


def _time(match: re.Match[str]) -> list[str]:
    hours, minutes = int(match["hours"]), int(match["minutes"])
    if minutes == 0:
        return cardinal(hours)
    return [*cardinal(hours), *(["oh"] if minutes < 10 else []), *cardinal(minutes)]


def _decimal(match: re.Match[str]) -> list[str]:
    whole = match["whole"].replace(",", "")
    return [*(cardinal(int(whole)) if whole else ["zero"]), "point", *digits(match["part"])]


def _fraction(match: re.Match[str]) -> list[str]:
    top, bottom = int(match["top"]), int(match["bottom"])
    if not 1 < bottom <= 100 or top > 100:
        return [*cardinal(top), "over", *cardinal(bottom)]
    name = [_DENOMINATORS[bottom]] if bottom in _DENOMINATORS else ordinal(bottom)
    if top != 1:
        name = [*name[:-1], "halves" if name[-1] == "half" else plural(name[-1])]
    return [*cardinal(top), *name]


def _money(match: re.Match[str]) -> list[str]:
    one, many, small_one, small_many = CURRENCIES[match["sign"]]
    whole, part = int(match["whole"].replace(",", "") or 0), match["part"]
    if part and (len(part) != 2 or not small_one):
        return [*cardinal(whole), "point", *digits(part), many]
    spoken = [*cardinal(whole), one if whole == 1 else many] if whole or not int(part or 0) else []
    if part and int(part):
        cents = int(part)
        spoken += [*(["and"] if spoken else []), *cardinal(cents), small_one if cents == 1 else small_many]
    return spoken


def _grouped(match: re.Match[str]) -> list[str]:
    return cardinal(int(match["value"].replace(",", "")))


def _plain(match: re.Match[str]) -> list[str]:
    text = match["value"]
    if len(text) > 1 and text[0] == "0":
        return digits(text)
    value = int(text[:18])
    if len(text) == 4 and (1100 <= value <= 1999 or 2001 <= value <= 2099):
        return year(value)
    return cardinal(value) if len(text) <= 9 else digits(text)


def _range(match: re.Match[str]) -> list[str]:
    first, second = match["first"], match["second"]
    if len(first) == 3 and len(second) == 4:  # a telephone number
        return digits(first + second)
    if len(first) == 4 and len(second) == 2 and first[0] in "12":  # 1914-18
        return [*year(int(first)), "to", *cardinal(int(second))]
    return [*(speak_figures(first) or []), "to", *(speak_figures(second) or [])]


_G = r"\d{1,3}(?:,\d{3})+"
_PATTERNS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], list[str]]], ...] = (
    (re.compile(rf"(?P<sign>[$£€¥₹])(?P<whole>{_G}|\d{{1,15}}|)(?:\.(?P<part>\d{{1,9}}))?"), _money),
    (re.compile(r"(?P<value>\d{1,15})(?:st|nd|rd|th)", re.I), lambda m: ordinal(int(m["value"]))),
    (re.compile(r"['’]?(?P<value>1\d\d0|20\d0|\d0)['’]?s", re.I), _decade),
    (re.compile(r"(?P<hours>[01]?\d|2[0-4]):(?P<minutes>[0-5]\d)"), _time),
    (re.compile(rf"(?P<whole>{_G}|\d{{1,15}}|)\.(?P<part>\d{{1,20}})"), _decimal),
    (re.compile(r"(?P<top>\d{1,3})[/⁄](?P<bottom>\d{1,3})"), _fraction),
    (re.compile(rf"(?P<value>{_G})"), _grouped),
    (re.compile(r"(?P<first>\d{1,4})[-–‐](?P<second>\d{1,4})"), _range),
    (re.compile(r"(?P<value>\d+)"), _plain),
)


def speak_figures(text: str, language: str = "en") -> list[str] | None:
    """Words for a token made of figures ("$3.50", "22nd", "1990s", "3/4"), or None if it is not one.

    In other languages than English, whole and decimal numbers only.
    """
    if not text.isascii() and not any(sign in text for sign in "£€¥₹’–‐⁄"):
        return None
    if language != "en":
        plain = re.fullmatch(r"\d{1,15}", text)
        return cardinal(int(text), language) if plain and knows_language(language) else None
    for pattern, speak in _PATTERNS:
        match = pattern.fullmatch(text)
        if match and (match.lastgroup != "sign") and any(character.isdecimal() for character in text):
            return speak(match)
    return None
