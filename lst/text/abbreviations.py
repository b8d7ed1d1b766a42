"""English abbreviations, signs and Roman numerals, as they are read aloud."""

import re

_SINGLE = {
    "mr.": "mister",
    "mrs.": "missus",
    "ms.": "miz",
    "dr.": "doctor",
    "prof.": "professor",
    "rev.": "reverend",
    "hon.": "honorable",
    "gen.": "general",
    "col.": "colonel",
    "maj.": "major",
    "capt.": "captain",
    "lt.": "lieutenant",
    "lieut.": "lieutenant",
    "sgt.": "sergeant",
    "cpl.": "corporal",
    "gov.": "governor",
    "sen.": "senator",
    "rep.": "representative",
    "pres.": "president",
    "supt.": "superintendent",
    "insp.": "inspector",
    "messrs.": "messieurs",
    "mme.": "madame",
    "mlle.": "mademoiselle",
    "jr.": "junior",
    "sr.": "senior",
    "esq.": "esquire",
    "vs.": "versus",
    "co.": "company",
    "corp.": "corporation",
    "inc.": "incorporated",
    "ltd.": "limited",
    "bros.": "brothers",
    "dept.": "department",
    "est.": "established",
    "approx.": "approximately",
    "ave.": "avenue",
    "blvd.": "boulevard",
    "rd.": "road",
    "mt.": "mount",
    "ft.": "fort",
    "jan.": "january",
    "feb.": "february",
    "apr.": "april",
    "aug.": "august",
    "sept.": "september",
    "oct.": "october",
    "nov.": "november",
    "dec.": "december",
    "vol.": "volume",
    "viz.": "namely",
    "oz.": "ounces",
    "lb.": "pounds",
    "lbs.": "pounds",
    "hr.": "hour",
    "hrs.": "hours",
    "etc.": "et cetera",
    "&c.": "et cetera",
    "etc": "et cetera",
}

ABBREVIATIONS: dict[str, tuple[str, ...]] = {short: tuple(long.split()) for short, long in _SINGLE.items()}
"""Abbreviation, lower case with its full stop -> spoken words."""

LETTER_ABBREVIATIONS = frozenset(["a.m.", "p.m.", "u.s.", "u.k.", "i.e.", "e.g.", "ph.d.", "b.c.", "a.d."])
"""Read letter by letter, like every other run of single letters and full stops."""

SYMBOLS: dict[str, tuple[str, ...]] = {
    "&": ("and",),
    "+": ("plus",),
    "=": ("equals",),
    "%": ("percent",),
    "@": ("at",),
    "#": ("number",),
    "°": ("degrees",),
    "§": ("section",),
    "/": (),
    "~": (),
    "<": (),
    ">": (),
    "*": (),
    "^": (),
    "|": (),
}
"""Sign -> spoken words; those without any are not read."""

UNITS: dict[str, tuple[str, ...]] = {
    "kg": ("kilograms",),
    "g": ("grams",),
    "mg": ("milligrams",),
    "km": ("kilometers",),
    "m": ("meters",),
    "cm": ("centimeters",),
    "mm": ("millimeters",),
    "ft": ("feet",),
    "lb": ("pounds",),
    "lbs": ("pounds",),
    "oz": ("ounces",),
    "mph": ("miles", "per", "hour"),
    "hz": ("hertz",),
    "khz": ("kilohertz",),
    "mhz": ("megahertz",),
    "mb": ("megabytes",),
    "gb": ("gigabytes",),
    "am": ("a", "m"),
    "pm": ("p", "m"),
    "k": ("thousand",),
    "m.": ("meters",),
}
"""Unit written right after a figure -> spoken words."""

_ROMAN = re.compile(r"(?=[IVXL])(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})")
_ROMAN_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}


def is_title(token: str) -> bool:
    """Whether a token is capitalised like a name: "Mr", not "MR" or "mr"."""
    return token[:1].isupper() and token[1:].islower()


def roman_value(token: str) -> int | None:
    """The number a Roman numeral up to 99 stands for, or None. Upper case only; "I" alone counts as 1."""
    if not _ROMAN.fullmatch(token):
        return None
    total = 0
    for character, following in zip(token, [*token[1:], "I"]):
        value = _ROMAN_VALUES[character]
        total += -value if value < _ROMAN_VALUES[following] else value
    return total
