"""A plot with one value a row and its spread, on a linear or a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from adapter_export.pages.colours import light
from adapter_export.pages.plots.axes import log_axis, name_rows, rows_height
from adapter_export.pages.plots.drawing import draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Interval:
    """A row.

    Attributes:
        name: Its name.
        value: Its value.
        low: Lower end of its spread.
        high: Upper end of its spread.
        far: A value beyond the spread that is marked as well; None for none.
    """

    name: str
    value: float
    low: float
    high: float
    far: float | None = None


def interval_plot(
    name: str,
    label: str,
    rows: Sequence[Interval],
    axis: str,
    band: tuple[float, float] | None = None,
    *,
    log: bool = False,
) -> Markup:
    """Draws a dot for each value, a line for its spread, and a small bar for the value beyond.

    Args:
        name: Name of the plot.
        label: What it shows.
        rows: The rows. Those without a finite value have a name only.
        axis: What the horizontal axis shows.
        band: Two values between which the background is shaded; None for no band.
        log: Whether the axis is logarithmic.
    """
    names = [row.name for row in rows]

    def paint(axes: Axes) -> None:
        if band is not None and all(map(math.isfinite, band)):
            axes.axvspan(*band, color=light("band"), linewidth=0)
        heights = name_rows(axes, names)
        shown = [(row, height) for row, height in zip(rows, heights, strict=True) if math.isfinite(row.value)]
        if log:
            log_axis(axes, [value for row, _ in shown for value in (row.low, row.value, row.high, row.far or 0)])
        for row, height in shown:
            axes.plot([row.low, row.high], [height, height], color=light("first"), linewidth=3)
            axes.plot([row.value], [height], "o", color=light("ink"), markersize=6)
            if row.far is not None:
                axes.plot([row.far, row.far], [height - 5, height + 5], color=light("first"), linewidth=2)
        if not log:
            axes.locator_params(axis="x", nbins=5)
            axes.grid(axis="x")
        axes.set_xlabel(axis)

    return draw(name, label, rows_height(names), paint)
