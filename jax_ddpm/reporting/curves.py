"""Numbers as drawings: SVG whose colours are the page's, so that they follow light and dark, with their gist told in words."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 12, 46
ROW = 44  # of one value and its error bar
COLOURS = 6  # that the page's style has, each with its own dashes and marks; further series begin again
NAMED = 64  # letters of a value's name
VALUES = 106  # pixels to the right of the bars, for what they say
MARKED = 40  # points; more are a line alone
_DIGITS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Axis(NamedTuple):
    """What is told along it, and whether by its logarithm; whether 0 is on it."""

    label: str
    log: bool = False
    from_zero: bool = False


class Series(NamedTuple):
    """One line: its name, and its points; on a logarithmic axis those that are not above 0 are left out."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


class Bar(NamedTuple):
    """A value and the error to either side, None where that is not known."""

    name: str
    value: float
    error: float | None


class _Scale(NamedTuple):
    """From values to pixels along one axis."""

    place: Callable[[float], float]
    ticks: tuple[float, ...]


def lines(name: str, title: str, series: Sequence[Series], x: Axis, y: Axis) -> Markup:
    """Each series as a line, told apart by colour, dashes and marks, with a legend below where there are several.

    Args:
      name: unique in the page.
    """
    kept = [_drawable(each, x, y) for each in series]
    drawn = [each for each in kept if each.x]
    if not drawn:
        return Markup("")
    across = _scale([value for each in drawn for value in each.x], x, LEFT, WIDTH - RIGHT)
    up = _scale([value for each in drawn for value in each.y], y, HEIGHT - BOTTOM, TOP)
    every = [_line(place, each, across, up, alone=len(drawn) == 1) for place, each in enumerate(drawn)]
    body = _grid(across, up, x, y) + Markup("").join(every)
    legend = _legend([each.name for each in drawn]) if len(drawn) > 1 else Markup("")
    gists = [f"{each.name}: {_gist(each, x, y)}" if len(drawn) > 1 else _gist(each, x, y) for each in drawn]
    return _svg(name, title, " ".join(gists), body, HEIGHT) + legend


def error_bars(name: str, title: str, bars: Sequence[Bar], unit: str) -> Markup:
    """Two rows a value: its name; a dot, a bar of one error to either side, and what they say."""
    ends = [end for bar in bars for end in (bar.value - (bar.error or 0), bar.value + (bar.error or 0))]
    height = TOP + ROW * len(bars) + BOTTOM
    across = _scale(ends, Axis(unit), 14, WIDTH - VALUES)
    rows = Markup("").join(_bar(number, bar, across) for number, bar in enumerate(bars))
    body = _below(across, height - BOTTOM, TOP, Axis(unit), (14 + WIDTH - VALUES) / 2, height) + rows
    said = (f"{bar.name}: {number(bar.value)}{f' ± {number(bar.error)}' if bar.error is not None else ''}." for bar in bars)
    return _svg(name, title, " ".join(said), body, height)


def number(value: float) -> str:
    """Six digits of it, as they are shown and read aloud."""
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e15 if math.isfinite(value) else False):
        return f"{int(value):,}"
    return f"{value:.6g}"


def _drawable(series: Series, x: Axis, y: Axis) -> Series:
    """The points that have a place on the axes."""

    def has_place(value: float, axis: Axis) -> bool:
        return math.isfinite(value) and (value > 0 or not axis.log)

    points = [(a, b) for a, b in zip(series.x, series.y, strict=True) if has_place(a, x) and has_place(b, y)]
    return Series(series.name, [a for a, _ in points], [b for _, b in points])


def _scale(values: Sequence[float], axis: Axis, begin: float, end: float) -> _Scale:
    move: Callable[[float], float] = math.log10 if axis.log else float
    low, high = min(values), max(values)
    if axis.from_zero:
        low = min(low, 0.0)
    first, last = move(low), move(high)
    margin = 0.04 * (last - first) or max(abs(first) * 0.1, 0.5 if axis.log else 1e-9)
    first, last = (first if axis.from_zero else first - margin), last + margin
    ticks = _log_ticks(first, last) if axis.log else _even_ticks(first, last)
    return _Scale(lambda value: round(begin + (move(value) - first) / (last - first) * (end - begin), 1), ticks)


def _even_ticks(first: float, last: float) -> tuple[float, ...]:
    """Four to eight round numbers."""
    raw = (last - first) / 5
    power = 10 ** math.floor(math.log10(raw))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= raw)
    return tuple(round(n * step, 12) for n in range(math.ceil(first / step), math.floor(last / step) + 1))


def _log_ticks(first: float, last: float) -> tuple[float, ...]:
    """Powers of ten, and where there are few of them, also what lies between."""
    span = last - first
    within = (1, 2, 5) if span < 2.2 else (1,)
    every = math.ceil(span / 6)
    powers = range(math.floor(first), math.ceil(last) + 1)
    found = (m * 10.0**n for n in powers if n % every == 0 for m in within)
    ticks = tuple(tick for tick in found if first <= math.log10(tick) <= last)
    return ticks if len(ticks) > 1 else tuple(tick for tick in _even_ticks(10**first, 10**last) if tick > 0)


def _written(tick: float) -> str:
    """A tick, short: 10⁻⁵ where figures would be long."""
    if tick and not 1e-3 <= abs(tick) < 1e6:
        power = math.floor(math.log10(abs(tick)) + 1e-9)
        factor = tick / 10.0**power
        return f"{'' if abs(factor - 1) < 1e-9 else f'{factor:g}·'}10{str(power).translate(_DIGITS)}"
    return f"{tick:,.6g}"


def _grid(across: _Scale, up: _Scale, x: Axis, y: Axis) -> Markup:
    floor, middle = HEIGHT - BOTTOM, (TOP + HEIGHT - BOTTOM) / 2
    levels = (
        Markup('<line class="rule" x1="{}" x2="{}" y1="{}" y2="{}"/><text x="{}" y="{}" text-anchor="end">{}</text>').format(
            LEFT, WIDTH - RIGHT, up.place(tick), up.place(tick), LEFT - 6, up.place(tick) + 4, _written(tick)
        )
        for tick in up.ticks
    )
    label = Markup('<text class="label" transform="translate(13 {}) rotate(-90)" text-anchor="middle">{}</text>')
    below = _below(across, floor, TOP, x, (LEFT + WIDTH - RIGHT) / 2, HEIGHT)
    return below + Markup("").join(levels) + label.format(middle, y.label)


def _below(across: _Scale, floor: float, top: float, axis: Axis, middle: float, height: float) -> Markup:
    """The axis at the foot of a drawing, and its lines upwards."""
    marks = (
        Markup('<line class="rule" x1="{}" x2="{}" y1="{}" y2="{}"/><text x="{}" y="{}" text-anchor="middle">{}</text>').format(
            across.place(tick), across.place(tick), top, floor, across.place(tick), floor + 17, _written(tick)
        )
        for tick in across.ticks
    )
    label = Markup('<text class="label" x="{}" y="{}" text-anchor="middle">{}</text>')
    return Markup("").join(marks) + label.format(middle, height - 8, axis.label)


def _line(place: int, series: Series, across: _Scale, up: _Scale, *, alone: bool) -> Markup:
    """A line with a mark at each point; where there are many, at some, by which it is told from others."""
    points = [(across.place(x), up.place(y)) for x, y in zip(series.x, series.y, strict=True)]
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
    line = Markup('<path class="line series-{}" d="{}"/>').format(place % COLOURS, path)
    some = [] if alone else points[:: max(len(points) // 8, 1)]
    marks = points if len(points) <= MARKED else some
    dots = Markup("").join(_mark(place, x, y) for x, y in marks)
    return line + dots


def _mark(place: int, x: float, y: float) -> Markup:
    """A circle, a square or a diamond, in the series' colour."""
    colour, shape = place % COLOURS, place % 3
    if shape == 0:
        return Markup('<circle class="mark series-{}" cx="{}" cy="{}" r="2.6"/>').format(colour, x, y)
    turned = Markup(' transform="rotate(45 {} {})"').format(x, y) if shape == 2 else ""
    tag = Markup('<rect class="mark series-{}" x="{:.1f}" y="{:.1f}" width="5" height="5"{}/>')
    return tag.format(colour, x - 2.5, y - 2.5, turned)


def _bar(place: int, bar: Bar, across: _Scale) -> Markup:
    y = TOP + ROW * place + 30
    error = bar.error or 0
    low, high = across.place(bar.value - error), across.place(bar.value + error)
    said = number(bar.value) if bar.error is None else f"{bar.value:.4g} ± {bar.error:.2g}"
    tag = Markup(
        '<text class="name" x="14" y="{}">{}</text><text class="said" x="{}" y="{}" text-anchor="end">{}</text>'
        '<path class="line series-0" d="M{} {}H{}M{} {}V{}M{} {}V{}"/>'
    )
    head = tag.format(
        *(y - 13, _cut(bar.name, NAMED), WIDTH - 2, y + 4, said),
        *(low, y, high, low, y - 5, y + 5, high, y - 5, y + 5),
    )
    return head + Markup('<circle class="mark series-0" cx="{}" cy="{}" r="4"/>').format(across.place(bar.value), y)


def _cut(text: str, most: int) -> str:
    """Its beginning and its end, where it is too long: names of folders differ in both."""
    return text if len(text) <= most else f"{text[: most // 3]}…{text[-(most - most // 3 - 1) :]}"


def _gist(series: Series, x: Axis, y: Axis) -> str:
    """The line in words: where it begins and ends, and its extremes."""
    low, high = (choose(zip(series.y, series.x, strict=True)) for choose in (min, max))
    where = f"from {number(series.y[0])} at {x.label} {number(series.x[0])} to {number(series.y[-1])} at {number(series.x[-1])}"
    extremes = f"least {number(low[0])} at {number(low[1])}, most {number(high[0])} at {number(high[1])}"
    return f"{y.label} {where}; {extremes}."


def _legend(names: Sequence[str]) -> Markup:
    key = Markup('<svg class="key" viewBox="0 0 34 12" width="34" height="12" aria-hidden="true">{}{}</svg>')
    line = Markup('<path class="line series-{}" d="M1 6H33"/>')
    rows = (
        Markup("<li>{} {}</li>").format(key.format(line.format(place % COLOURS), _mark(place, 17, 6)), name)
        for place, name in enumerate(names)
    )
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(rows))


def _svg(name: str, title: str, told: str, body: Markup, height: float) -> Markup:
    return Markup(
        '<svg role="img" aria-labelledby="{0}-title {0}-desc" viewBox="0 0 {1} {2}" width="{1}" height="{2}">'
        '<title id="{0}-title">{3}</title><desc id="{0}-desc">{4}</desc>{5}</svg>'
    ).format(escape(name), WIDTH, height, title, told, body)
