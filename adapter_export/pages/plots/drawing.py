"""Draws with matplotlib, and returns SVG that takes its colours and its font from the page that contains it."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

from adapter_export.pages.colours import PALETTE, light

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Width of all plots in CSS pixels. A phone shows them at about this size, so their text stays readable there.
WIDTH = 360
FONT_SIZE = 11
# Characters of FONT_SIZE that fit in the width. A line of wider letters than the average is a little longer.
LINE = 52
# matplotlib counts in points, 72 to an inch. In the SVG a point is a pixel of the view box.
_POINTS = 72
_NAMES = {shades[0]: f"var(--{name})" for name, shades in PALETTE.items()}
_HEX = re.compile(r"#[0-9a-f]{6}")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def settings(name: str) -> dict[str, Any]:
    """Returns matplotlib's settings for a plot of this name."""
    ink, dim, rule = light("ink"), light("dim"), light("rule")
    return {
        "figure.dpi": _POINTS,
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": name,  # the same ids in every run
        "text.parse_math": False,  # a `$` in a name is a dollar
        "font.size": FONT_SIZE,
        "axes.edgecolor": dim,
        "axes.labelcolor": ink,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.color": ink,
        "xtick.color": dim,
        "xtick.labelcolor": ink,
        "ytick.color": dim,
        "ytick.labelcolor": ink,
        "grid.color": rule,
        "legend.frameon": False,
    }


def draw(name: str, label: str, height: float, paint: Callable[[Axes], None]) -> Markup:
    """Draws one plot.

    Args:
        name: Its name, which no other plot of the page has.
        label: What it shows, for readers that do not see it.
        height: Its height in CSS pixels.
        paint: Draws into the axes.

    Returns:
        The element `svg`.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    text = io.StringIO()
    with rc_context(settings(name)), warnings.catch_warnings():
        # Text is drawn by the browser, with its fonts. matplotlib's own font only measures it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure((WIDTH / _POINTS, height / _POINTS), layout="constrained")
        figure.get_layout_engine().set(w_pad=2 / _POINTS, h_pad=2 / _POINTS)
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        paint(axes)
        canvas = FigureCanvasSVG(figure)
        canvas.print_svg(text, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _for_page(text.getvalue(), name, label)


def _for_page(text: str, name: str, label: str) -> Markup:
    """Returns matplotlib's SVG as part of a page: without namespaces, fonts and sizes, with its own ids."""
    root = ElementTree.fromstring(text)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("style", "metadata"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        attributes = dict(element.attrib)
        element.attrib.clear()
        for key, value in attributes.items():
            element.set(key.rpartition("}")[2], _value(key.rpartition("}")[2], value, name))
    size = root.get("viewBox", "")
    root.attrib.clear()
    root.attrib.update({"class": "plot", "role": "img", "aria-label": label, "viewBox": size})
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _value(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return f"#{name}-{value[1:]}"
    if key == "style":
        kept = [part for part in value.split("; ") if not part.startswith("font-family")]
        value = _HEX.sub(lambda match: _NAMES.get(match[0], match[0]), "; ".join(kept))
    return _REFERENCE.sub(rf"url(#{name}-\1)", value)
