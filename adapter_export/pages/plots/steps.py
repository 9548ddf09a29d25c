"""A plot of distributions: which share of the values is in each step of a logarithmic axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from adapter_export.pages.colours import MARKS, light
from adapter_export.pages.plots.axes import log_axis
from adapter_export.pages.plots.drawing import draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEIGHT, _LEGEND_LINE = 190, 16
_STYLES = ("-", (0, (5, 2)), (0, (1, 1.5)), "-.")
_PERCENT = 100.0


@dataclass(frozen=True)
class Steps:
    """A distribution.

    Attributes:
        name: What it is of.
        edges: Borders of the steps, one more than there are steps.
        shares: Share of the values in each step, from 0 to 1.
    """

    name: str
    edges: Sequence[float]
    shares: Sequence[float]


def step_plot(name: str, label: str, series: Sequence[Steps], axis: str) -> Markup:
    """Draws a line for each distribution: solid, dashed, dotted.

    Args:
        name: Name of the plot.
        label: What it shows.
        series: The distributions; those without steps are left out.
        axis: What the horizontal axis shows.
    """
    shown = [item for item in series if item.shares]

    def paint(axes: Axes) -> None:
        log_axis(axes, [edge for item in shown for edge in item.edges])
        for number, item in enumerate(shown):
            axes.stairs(
                [_PERCENT * share for share in item.shares], item.edges, label=item.name, linewidth=1.8,
                color=light(MARKS[number % len(MARKS)]), linestyle=_STYLES[number % len(_STYLES)],
            )  # fmt: skip
        axes.set_ylim(bottom=0)
        axes.set_xlabel(axis)
        axes.set_ylabel("% of all values")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, handlelength=2.6)

    return draw(name, label, _HEIGHT + _LEGEND_LINE * len(shown), paint)
