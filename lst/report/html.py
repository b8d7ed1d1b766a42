"""HTML and SVG as strings that are escaped unless they were made here: transcripts and names come from outside."""

import html
import math
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

_VOID = frozenset({"br", "img", "meta"})
_OVERRIDES = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Html(str):
    """Markup. Any other string is text, and is escaped where it enters markup."""


def escape(value: object) -> str:
    """Text for an element or an attribute, without control characters, halves of surrogate pairs and overrides of the
    direction of writing (which would reorder what stands beside it)."""
    return html.escape("".join(char for char in str(value) if char in "\n\t" or _printable(char)))


def _printable(char: str) -> bool:
    return unicodedata.category(char) not in ("Cc", "Cs") and char not in _OVERRIDES


def tag(name: str, *children: object, **attributes: object) -> Html:
    """An element. Children that are not `Html` are escaped; None is left out.

    `class_` stands for `class`, `_` in names for `-`. An attribute that is True has no value; None and False: absent.
    """
    parts = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        parts.append(f" {key}" if value is True else f' {key}="{_attribute(value)}"')
    start = f"<{name}{''.join(parts)}>"
    return Html(start if name in _VOID else f"{start}{join(children)}</{name}>")


def join(children: Iterable[object]) -> Html:
    """Children one after the other, escaped as in `tag`; sequences are taken apart."""
    parts = []
    for child in children:
        if isinstance(child, Html):
            parts.append(str(child))
        elif isinstance(child, list | tuple):
            parts.append(str(join(child)))
        elif child is not None:
            parts.append(escape(child))
    return Html("".join(parts))


def _attribute(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".") if "." in f"{value:.2f}" else f"{value:.2f}"
    return escape(value)


def table(head: Sequence[object], rows: Iterable[Sequence[object]], *, text_columns: int = 1) -> Html:
    """A table whose first `text_columns` columns are words; numbers stand to the right."""

    def cells(kind: str, row: Sequence[object]) -> list[Html]:
        return [tag(kind, cell, class_=None if place < text_columns else "number") for place, cell in enumerate(row)]

    body = [tag("tr", cells("td", row)) for row in rows]
    header = tag("thead", tag("tr", cells("th", head))) if any(head) else None
    return tag("div", tag("table", header, tag("tbody", body)), class_="scroll")


def figure(content: object, caption: object, **attributes: object) -> Html:
    """A drawing (or a player) and what it shows."""
    return tag("figure", tag("div", content, class_="scroll"), tag("figcaption", caption), **attributes)


def note(text: str) -> Html:
    """A line that says what is missing."""
    return tag("p", text, class_="note")


def quote(text: object) -> Html:
    """Words of others, in their own direction of writing."""
    return tag("q", text, dir="auto")


def number(value: Any) -> str:
    """12,345 for whole numbers, four digits otherwise; what is no number as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if not math.isfinite(value):
        return "not finite"
    return f"{int(value):,}" if float(value).is_integer() else f"{value:,.4g}"


def seconds(value: float) -> str:
    """`850 ms`, `12.3 s`, `4 min 05 s`, `2 h 10 min`."""
    if value < 1:
        return f"{1000 * value:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    whole = round(value)
    return (
        f"{whole // 60} min {whole % 60:02d} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    )


def percent(value: float) -> str:
    """`77.1%`."""
    return f"{100 * value:.1f}%"
