"""A plot with rows of dots, one dot for each case, on one logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from markupsafe import Markup

from adapter_export.pages.colours import MARKS, light
from adapter_export.pages.plots.axes import log_axis, mark_limit, name_rows, rows_height
from adapter_export.pages.plots.drawing import draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHAPES = ("o", "s", "^", "D")


@dataclass(frozen=True)
class Dots:
    """A row.

    Attributes:
        name: Its name.
        values: Its dots. What is not positive is drawn at the left end of the axis, what is not finite is left out.
    """

    name: str
    values: Sequence[float]


def dot_plot(name: str, label: str, rows: Sequence[Dots], axis: str, limit: float | None = None) -> Markup:
    """Draws rows of dots, each with a line at its median.

    Args:
        name: Name of the plot.
        label: What it shows.
        rows: The rows.
        axis: What the horizontal axis shows.
        limit: A value that is marked by a line; None for none.
    """
    names = [row.name for row in rows]

    def paint(axes: Axes) -> None:
        marked = [] if limit is None else [limit]
        low, _ = log_axis(axes, [*(value for row in rows for value in row.values), *marked])
        for number, (row, height) in enumerate(zip(rows, name_rows(axes, names), strict=True)):
            values = [max(value, low) for value in row.values if math.isfinite(value)]
            if not values:
                continue
            colour = light(MARKS[number % len(MARKS)])
            axes.plot(
                values, [height] * len(values), _SHAPES[number % len(_SHAPES)], color=colour, markersize=6, alpha=0.45,
                markeredgewidth=0, clip_on=False,
            )  # fmt: skip
            middle = median(values)
            axes.plot([middle, middle], [height - 8, height + 8], color=light("ink"), linewidth=1.5, clip_on=False)
        if limit is not None:
            mark_limit(axes, limit)
        axes.set_xlabel(axis)

    return draw(name, label, rows_height(names), paint)
