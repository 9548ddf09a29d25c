"""Draws two kinds of plots as SVG text. Their colours are CSS classes of the page that contains them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

# Number of colours, which are the CSS classes `c0`, `c1`, ...
COLOURS = 8
_WIDTH, _HEIGHT = 640, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 12, 34
_NAMES, _ROW, _VALUES = 220, 22, 150
_TICKS = 4
_CHARACTERS = 34


@dataclass(frozen=True)
class Bar:
    """One bar of a plot.

    Attributes:
        name: Its name, left of the bar.
        value: Its length.
        text: Its text, right of the bar.
        low: Lower bound of the value; None without one.
        high: Upper bound of the value; None without one.
    """

    name: str
    value: float
    text: str
    low: float | None = None
    high: float | None = None


def lines(label: str, columns: Sequence[str], series: Mapping[str, Sequence[float | None]]) -> str:
    """Draws a line for each series, on an axis that begins at zero.

    Args:
        label: Description of the plot.
        columns: Names of the columns.
        series: For each series its value in each column; None for a column without a point.
    """
    step = (_WIDTH - _LEFT - _RIGHT) / max(1, len(columns))
    top = max((value for values in series.values() for value in values if value is not None), default=0.0) or 1.0
    tick = nice_step(top)
    top = tick * math.ceil(top / tick)
    base = _HEIGHT - _BOTTOM

    def x(column: int) -> float:
        return _LEFT + step * (column + 0.5)

    def y(value: float) -> float:
        return base - (base - _TOP) * value / top

    parts = [
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        f'<text class="end" x="{_LEFT - 6}" y="{y(value) + 4:.1f}">{value:g}</text>'
        for value in (tick * number for number in range(round(top / tick) + 1))
    ]
    parts += [
        f'<text class="middle" x="{x(column):.1f}" y="{_HEIGHT - 12}">{escape(name)}</text>'
        for column, name in enumerate(columns)
    ]
    for number, (name, values) in enumerate(series.items()):
        points = [(x(column), y(value)) for column, value in enumerate(values) if value is not None]
        path = " ".join(f"{left:.1f},{top_:.1f}" for left, top_ in points)
        dots = "".join(f'<circle cx="{left:.1f}" cy="{top_:.1f}" r="3"/>' for left, top_ in points)
        parts.append(
            f'<g class="c{number % COLOURS}"><title>{escape(name)}</title><polyline points="{path}"/>{dots}</g>'
        )
    return _svg(label, _HEIGHT, parts)


def bars(label: str, rows: Sequence[Bar], band: tuple[float, float] | None = None, log: bool = False) -> str:
    """Draws a bar for each row.

    Args:
        label: Description of the plot.
        rows: The bars.
        band: Two values between which the background is shaded; None for no band.
        log: Whether the axis is logarithmic. It then begins at the power of ten below the smallest value.
    """
    finite = [row for row in rows if math.isfinite(row.value)]
    most = max([*(row.high or row.value for row in finite), *(band or ())], default=1.0) or 1.0
    least = min((row.value for row in finite if row.value > 0), default=1.0)
    floor = 10.0 ** math.floor(math.log10(least)) if log else 0.0
    room = _WIDTH - _NAMES - _VALUES

    def x(value: float) -> float:
        share = math.log(value / floor) / math.log(10 * most / floor) if log else value / most
        return _NAMES + room * min(1.0, max(0.0, share))

    height = _ROW * len(rows) + 8
    parts = []
    if band is not None:
        width = max(1.0, x(band[1]) - x(band[0]))
        parts.append(f'<rect class="band" x="{x(band[0]):.1f}" y="0" width="{width:.1f}" height="{height}"/>')
    for number, row in enumerate(rows):
        y = 4 + _ROW * number
        name = row.name if len(row.name) <= _CHARACTERS else f"{row.name[: _CHARACTERS - 3]}..."
        middle = y + _ROW / 2
        value = x(row.value) if row in finite and (row.value > 0 or not log) else _NAMES
        parts.append(
            f'<g class="c{number % COLOURS}"><title>{escape(row.name)}: {escape(row.text)}</title>'
            f'<rect x="{_NAMES}" y="{y + 4}" width="{value - _NAMES:.1f}" height="{_ROW - 8}"/></g>'
            f'<text class="end" x="{_NAMES - 6}" y="{middle + 4}">{escape(name)}</text>'
            f'<text x="{_WIDTH - _VALUES + 6}" y="{middle + 4}">{escape(row.text)}</text>'
        )
        if row.low is not None and row.high is not None and row in finite:
            parts.append(
                f'<line class="bounds" x1="{x(row.low):.1f}" x2="{x(row.high):.1f}" y1="{middle}" y2="{middle}"/>'
            )
    return _svg(label, height, parts)


def nice_step(top: float) -> float:
    """Returns a step of 1, 2 or 5 times a power of ten, so that about four steps reach `top`."""
    power = 10.0 ** math.floor(math.log10(top / _TICKS))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor * _TICKS >= top * (1 - 1e-9))


def _svg(label: str, height: float, parts: Sequence[str]) -> str:
    inner = "".join(parts)
    return f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {_WIDTH} {height}">{inner}</svg>'
