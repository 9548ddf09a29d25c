"""What plots have in common: logarithmic axes, and rows that have their name above them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from adapter_export.pages.colours import light
from adapter_export.pages.plots.drawing import FONT_SIZE, LINE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Heights in CSS pixels: of a line of text, of the marks of a row with the space below them, and of what is below the
# rows.
LINE_HEIGHT, MARKS_HEIGHT, AXIS_HEIGHT = 15, 30, 46
# A logarithmic axis has at most so many labels.
_LABELS = 6


def log_axis(axes: Axes, values: Iterable[float]) -> tuple[float, float]:
    """Makes the horizontal axis logarithmic, from the power of ten below the values to the one above them.

    Args:
        axes: The axes.
        values: What must be on the axis; those that are not positive and finite do not count.

    Returns:
        Both ends of the axis.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    exponents = [math.log10(value) for value in values if math.isfinite(value) and value > 0] or [0.0]
    low, high = math.floor(min(exponents)), math.ceil(max(exponents) + 1e-9)
    if low == high:
        high += 1
    step = max(1, math.ceil((high - low) / _LABELS))
    axes.set_xscale("log")
    axes.set_xlim(10.0**low, 10.0**high)
    axes.xaxis.set_major_locator(FixedLocator([10.0**power for power in range(low, high + 1, step)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))
    axes.grid(axis="x")
    return 10.0**low, 10.0**high


def mark_limit(axes: Axes, limit: float) -> None:
    """Draws a dashed line at a limit, with its name at the top."""
    axes.axvline(limit, color=light("ink"), linewidth=1.5, linestyle=(0, (4, 2)))
    axes.annotate(
        "limit", (limit, 1), (-4, 2), xycoords=("data", "axes fraction"), textcoords="offset points", ha="right",
        va="top", color=light("ink"), fontsize=FONT_SIZE,
    )  # fmt: skip


def power_of_ten(value: float) -> str:
    """Returns a power of ten as text: `1e-6`, and `0.01` to `1000` in full."""
    power = round(math.log10(value))
    return f"{10.0**power:g}" if -2 <= power <= 3 else f"1e{power}"


def name_rows(axes: Axes, names: Sequence[str]) -> list[float]:
    """Writes a name above each row, wrapped and never cut, and returns the heights at which rows have their marks."""
    wrapped = [lines_of(name) for name in names]
    heights, top = [], 0.0
    for lines in wrapped:
        text = "\n".join(lines)
        axes.annotate(
            text, (0, top), (0, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="top",
            color=light("ink"), fontsize=FONT_SIZE,
        )  # fmt: skip
        heights.append(top + LINE_HEIGHT * len(lines) + MARKS_HEIGHT / 3)
        top += LINE_HEIGHT * len(lines) + MARKS_HEIGHT
    axes.set_ylim(top, 0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    return heights


def rows_height(names: Sequence[str]) -> float:
    """Returns the height of a plot with a row for each name, in CSS pixels."""
    return sum(LINE_HEIGHT * len(lines_of(name)) + MARKS_HEIGHT for name in names) + AXIS_HEIGHT


def lines_of(name: str) -> list[str]:
    """Returns a name in lines that fit in the width of a plot."""
    return textwrap.wrap(name, LINE) or [""]
