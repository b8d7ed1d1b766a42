"""Charts as SVG elements: small, the same bytes every time, and coloured by the page's style, light or dark."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from lst.report.html import Html, number, tag

Point = tuple[float, float]

_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 26, 40
MAX_POINTS = 400


@dataclass(frozen=True)
class Series:
    """A line. `colour`: 1 to 4 of the page's palette. `dots`: mark the points, with their values to hover over."""

    name: str
    points: Sequence[Point]
    colour: int
    dots: bool = False


@dataclass(frozen=True)
class Part:
    """A stretch of a bar: what it is, how much, and its colour."""

    name: str
    value: float
    colour: int


def drawing(width: float, height: float, *children: object, label: str) -> Html:
    """An SVG that fills the page's width up to its own; `label` is read out in its place."""
    box = f"0 0 {width:g} {height:g}"
    style = f"max-width:{width:g}px"
    return tag("svg", *children, viewBox=box, style=style, role="img", aria_label=label)


def words(x: float, y: float, text: object, *, anchor: str = "start", class_: str = "label") -> Html:
    """Text with its baseline at `y`."""
    return tag("text", text, x=float(x), y=float(y), text_anchor=anchor, class_=class_)


def rectangle(x: float, y: float, width: float, height: float, class_: str, title: str = "", **more: object) -> Html:
    """A box, with what it says when hovered over."""
    hint = tag("title", title) if title else None
    return tag("rect", hint, x=float(x), y=float(y), width=float(width), height=float(height), class_=class_, **more)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class _Axes:
    width: float
    height: float
    x: Point
    y: Point

    def px(self, x: float) -> float:
        return _LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * (self.width - _LEFT - _RIGHT)

    def py(self, y: float) -> float:
        return self.height - _BOTTOM - (y - self.y[0]) / (self.y[1] - self.y[0]) * (self.height - _TOP - _BOTTOM)

    def frame(self, title: str, x_label: str) -> list[Html]:
        """Grid, tick labels, the title above and the name of the x axis below."""
        right, bottom = self.width - _RIGHT, self.height - _BOTTOM
        parts = [words(0, 13, title, class_="title")]
        for value in ticks(*self.y):
            y = self.py(value)
            parts.append(tag("line", x1=float(_LEFT), x2=float(right), y1=y, y2=y, class_="grid"))
            parts.append(words(_LEFT - 7, y + 4, number(value), anchor="end"))
        for value in ticks(*self.x):
            parts.append(words(self.px(value), bottom + 17, number(value), anchor="middle"))
        parts.append(tag("line", x1=float(_LEFT), x2=float(right), y1=bottom, y2=bottom, class_="axis"))
        parts.append(words((_LEFT + right) / 2, self.height - 5, x_label, anchor="middle"))
        return parts


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    marks: Sequence[tuple[float, str]] = (),
    from_zero: bool = False,
    width: float = 520,
    height: float = 270,
) -> Html | None:
    """Lines over one pair of axes; None if there is no point. `marks`: places on the x axis with a word each."""
    drawn = [Series(line.name, _thinned(line.points), line.colour, line.dots) for line in series]
    drawn = [line for line in drawn if line.points]
    if not drawn:
        return None
    xs = [0.0, *(x for line in drawn for x, _ in line.points), *(x for x, _ in marks)]
    ys = [y for line in drawn for _, y in line.points]
    axes = _Axes(width, height, _spread(min(xs), max(xs), 0.0), _spread(0.0 if from_zero else min(ys), max(ys), 0.05))
    parts = axes.frame(title, x_label)
    for x, label in marks:
        at = axes.px(x)
        parts.append(tag("line", x1=at, x2=at, y1=float(_TOP), y2=height - _BOTTOM, class_="mark"))
        parts.append(words(at - 4, height - _BOTTOM - 6, label, anchor="end"))
    for line in drawn:
        path = " ".join(f"{axes.px(x):.1f},{axes.py(y):.1f}" for x, y in line.points)
        parts.append(tag("polyline", points=path, class_=f"line stroke{line.colour}"))
        if line.dots or len(line.points) == 1:
            for x, y in line.points:
                hint = tag("title", f"{line.name}, {x_label} {number(x)}: {number(y)}")
                parts.append(tag("circle", hint, cx=axes.px(x), cy=axes.py(y), r=3.5, class_=f"dot fill{line.colour}"))
    return drawing(width, height, parts, _legend(drawn, width), label=f"{title}: {', '.join(s.name for s in drawn)}")


def _thinned(points: Sequence[Point]) -> list[Point]:
    """Finite points, at most `MAX_POINTS`: means of neighbours where there are more."""
    finite = [(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    size = -(-len(finite) // MAX_POINTS)
    if size <= 1:
        return finite
    groups = [finite[start : start + size] for start in range(0, len(finite), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def _spread(low: float, high: float, margin: float) -> Point:
    size = max(abs(low), abs(high))
    if high - low <= 1e-9 * size:  # all the same, up to rounding
        half = max(0.5, 0.01 * size)
        return low - half, high + half
    extra = (high - low) * margin
    return (low - extra if low else low), high + extra


def _legend(series: Sequence[Series], width: float) -> list[Html]:
    if len(series) < 2:
        return []
    parts = []
    x = width - _RIGHT
    for line in reversed(series):
        parts.append(words(x, 13, line.name, anchor="end"))
        x -= 7.0 * len(line.name) + 8
        parts.append(tag("line", x1=x - 14, x2=x, y1=9.0, y2=9.0, class_=f"line stroke{line.colour}"))
        x -= 30
    return parts


@dataclass(frozen=True)
class Cloud:
    """Points of one name."""

    name: str
    points: Sequence[Point]


def clouds(groups: Sequence[Cloud], *, title: str, width: float = 720, height: float = 560) -> Html:
    """Points in the plane, each group with its name at its median; the axes mean nothing and are not drawn."""
    finite = [Cloud(group.name, [p for p in group.points if all(map(math.isfinite, p))]) for group in groups]
    finite = [group for group in finite if group.points]
    x, y = (
        _spread(min(values), max(values), 0.05)
        for values in ([p[axis] for group in finite for p in group.points] or [0.0] for axis in (0, 1))
    )
    axes = _Axes(width, height, x, y)
    dots, names = [], []
    for place, group in enumerate(finite):
        colour = place % 5 + 1
        for px, py in group.points:
            hint = tag("title", group.name)
            dots.append(tag("circle", hint, cx=axes.px(px), cy=axes.py(py), r=3.5, class_=f"dot fill{colour}"))
        mx, my = (statistics.median(p[axis] for p in group.points) for axis in (0, 1))
        names.append(words(axes.px(mx), axes.py(my) + 4, group.name, anchor="middle", class_="title"))
    return drawing(width, height, words(0, 13, title, class_="title"), dots, names, label=title)


def histograms(
    groups: Sequence[tuple[str, Sequence[float], int]], *, title: str, x_label: str, last: str, width: float = 1080
) -> Html:
    """One small chart per group (name, share of each bin in 0..1, colour), beside each other on the same x axis.

    Bin k stands for the value k + 1; the last one, labelled `last`, for everything above.
    """
    each, height = width / len(groups), 210.0
    bottom = height - _BOTTOM
    parts = []
    for place, (name, shares, colour) in enumerate(groups):
        left, right = place * each + _LEFT - 6, (place + 1) * each - 10
        top = max(shares, default=0.0) or 1.0
        parts.append(words(place * each, 13, name, class_="title"))
        for value in ticks(0.0, top, 4):
            y = bottom - value / top * (bottom - _TOP)
            parts.append(tag("line", x1=left, x2=right, y1=y, y2=y, class_="grid"))
            parts.append(words(left - 7, y + 4, f"{100 * value:.4g}%", anchor="end"))
        step = (right - left) / max(1, len(shares))
        for index, share in enumerate(shares):
            tall = share / top * (bottom - _TOP)
            units = last if index == len(shares) - 1 else str(index + 1)
            hint = f"{units} units ({40 * (index + 1)} ms{'+' if index == len(shares) - 1 else ''}): {100 * share:.1f}%"
            x = left + index * step
            parts.append(rectangle(x + 0.5, bottom - tall, max(1.0, step - 2), tall, f"fill{colour}", hint, rx=1.5))
            if (index + 1) % 5 == 0 or index == 0:
                parts.append(words(x + step / 2, bottom + 17, units, anchor="middle"))
        parts.append(tag("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis"))
        parts.append(words((left + right) / 2, height - 5, x_label, anchor="middle"))
    return drawing(width, height, parts, label=title)


def stacked_bars(rows: Sequence[tuple[str, Sequence[Part]]], *, title: str, width: float = 1080) -> Html:
    """Horizontal bars, each filled to its whole; a part's share stands in it where there is room."""
    left, tall, gap = 220.0, 26.0, 12.0
    names: dict[str, int] = {part.name: part.colour for _, bar in rows for part in bar}
    parts, x = [], left
    for name, colour in names.items():
        parts.append(rectangle(x, 2, 11, 11, f"fill{colour}", rx=2.0))
        parts.append(words(x + 17, 12, name))
        x += 34 + 6.6 * len(name)
    y = 26.0
    for label, bar in rows:
        parts.append(words(left - 12, y + 17, label, anchor="end"))
        total, x = sum(part.value for part in bar) or 1.0, left
        for part in bar:
            wide = part.value / total * (width - left)
            hint = f"{part.name}: {number(part.value)}, {100 * part.value / total:.1f}%"
            parts.append(rectangle(x, y, max(0.0, wide - 2), tall, f"fill{part.colour}", hint, rx=2.0))
            if wide > 46:
                share = f"{100 * part.value / total:.1f}%"
                parts.append(words(x + wide / 2 - 1, y + 17, share, anchor="middle", class_="inside"))
            x += wide
        y += tall + gap
    return drawing(width, y, parts, label=title)


@dataclass(frozen=True)
class Interval:
    """An estimate in [0, 1] with its interval, and what guessing would give."""

    name: str
    value: float
    low: float
    high: float
    chance: float


def intervals(rows: Sequence[Interval], *, title: str, x_label: str, width: float = 720) -> Html:
    """Estimates as dots with whiskers, one per line; chance as a broken stroke."""
    left, right, step = 120.0, width - 150, 34.0
    bottom = _TOP + step * len(rows)
    height = bottom + 40

    def px(value: float) -> float:
        return left + min(1.0, max(0.0, value)) * (right - left)

    parts = [words(0, 13, title, class_="title")]
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(tag("line", x1=px(value), x2=px(value), y1=float(_TOP), y2=bottom, class_="grid"))
        parts.append(words(px(value), bottom + 17, f"{100 * value:.0f}%", anchor="middle"))
    for place, row in enumerate(rows):
        y = _TOP + step * (place + 0.5)
        hint = tag("title", f"{row.name}: {100 * row.value:.1f}% [{100 * row.low:.1f}, {100 * row.high:.1f}]")
        parts.append(words(left - 12, y + 4, row.name, anchor="end"))
        parts.append(
            tag("line", x1=px(row.chance), x2=px(row.chance), y1=y - step / 2, y2=y + step / 2, class_="chance")
        )
        parts.append(tag("line", hint, x1=px(row.low), x2=px(row.high), y1=y, y2=y, class_="whisker stroke1"))
        parts.append(tag("circle", hint, cx=px(row.value), cy=y, r=5.0, class_="dot fill1"))
        said = f"{100 * row.value:.1f}%  [{100 * row.low:.1f}, {100 * row.high:.1f}]"
        parts.append(words(right + 14, y + 4, said))
    parts.append(words((left + right) / 2, height - 5, x_label, anchor="middle"))
    return drawing(width, height, parts, label=title)
