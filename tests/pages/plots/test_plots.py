"""Plots: marks stand where the numbers say, in colours and ids of the page; nothing of a name is cut off."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from markupsafe import Markup

from adapter_export.pages.colours import PALETTE
from adapter_export.pages.plots.axes import lines_of, power_of_ten
from adapter_export.pages.plots.dots import Dots, dot_plot
from adapter_export.pages.plots.intervals import Interval, interval_plot
from adapter_export.pages.plots.steps import Steps, step_plot

NUMBER = r"-?[0-9.]+"


def texts(plot: Markup) -> list[str]:
    return ["".join(item.itertext()) for item in ElementTree.fromstring(plot).iter("text")]


def ticks(plot: Markup) -> dict[float, float]:
    """Values of the horizontal axis, with their places."""
    found = {}
    for item in ElementTree.fromstring(plot).iter("text"):
        text = "".join(item.itertext()).replace("\u2212", "-")
        if "middle" in item.get("style", "") and re.fullmatch(r"-?[0-9.]+(e-?[0-9]+)?", text):
            found[float(text)] = float(item.get("x", ""))
    return found


def marks(plot: Markup, colour: str) -> list[float]:
    """Horizontal places of the marks in a colour."""
    uses = ElementTree.fromstring(plot).iter("use")
    return [float(item.get("x", "")) for item in uses if f"var(--{colour})" in item.get("style", "")]


def test_dots_stand_at_their_values() -> None:
    plot = dot_plot("p", "d", [Dots("one", [1e-6, 1e-5, 1e-4]), Dots("two", [0.0, math.nan, 1e-3])], "error", 1e-4)
    at = ticks(plot)
    assert {1e-6, 1e-5, 1e-4, 1e-3} <= set(at)
    assert marks(plot, "first") == pytest.approx([at[1e-6], at[1e-5], at[1e-4]], abs=0.01)
    # What is not positive is at the left end; what is no number is left out.
    assert marks(plot, "second") == pytest.approx([at[1e-6], at[1e-3]], abs=0.01)
    assert {"one", "two", "error", "limit"} <= set(texts(plot))


def test_intervals_stand_at_their_values() -> None:
    rows = [Interval("a", 2.0, 1.0, 3.0, 4.0), Interval("b", math.nan, math.nan, math.nan)]
    plot = interval_plot("p", "d", rows, "ratio", band=(1.0, 2.0))
    at = ticks(plot)
    slope, start = np.polyfit(list(at), list(at.values()), 1)
    assert marks(plot, "ink")[0] == pytest.approx(start + 2 * slope, abs=0.05)
    paths = [item for item in ElementTree.fromstring(plot).iter("path") if "var(--first)" in item.get("style", "")]
    spans = [[float(x) for x in re.findall(rf"[ML] ({NUMBER}) {NUMBER}", item.get("d", ""))] for item in paths]
    assert spans[0] == pytest.approx([start + slope, start + 3 * slope], abs=0.05)
    assert spans[1] == pytest.approx([start + 4 * slope] * 2, abs=0.05)
    (band,) = (item for item in ElementTree.fromstring(plot).iter("path") if "var(--band)" in item.get("style", ""))
    edges = {float(x) for x in re.findall(rf"[ML] ({NUMBER}) {NUMBER}", band.get("d", ""))}
    assert sorted(edges) == pytest.approx([start + slope, start + 2 * slope], abs=0.05)


def test_logarithmic_intervals() -> None:
    at = ticks(interval_plot("p", "d", [Interval("a", 1.0, 0.1, 10.0)], "ms", log=True))
    assert at[1] - at[0.1] == pytest.approx(at[10] - at[1], abs=0.01)


def test_steps() -> None:
    series = [Steps("mine", [1e-6, 1e-5, 1e-4], [0.25, 0.75]), Steps("none", [1.0], [])]
    plot = step_plot("p", "d", series, "error")
    at = ticks(plot)
    (line,) = (
        item
        for item in ElementTree.fromstring(plot).iter("path")
        if "var(--first)" in item.get("style", "") and "clip-path" in item.attrib
    )
    places = {round(float(x), 2) for x in re.findall(rf"[ML] ({NUMBER}) {NUMBER}", line.get("d", ""))}
    assert sorted(places) == pytest.approx([at[1e-6], at[1e-5], at[1e-4]], abs=0.02)
    assert "none" not in texts(plot)


def test_plots_take_colours_and_ids_of_the_page() -> None:
    plots = [dot_plot(name, "d", [Dots("x", [1.0, 2.0])], "y", 1.5) for name in ("a", "b")]
    for name, plot in zip("ab", plots, strict=True):
        assert not re.search("#[0-9a-f]{6}|font-family|xmlns|<style|<metadata", plot)
        assert set(re.findall(r"var\(--(\w+)\)", plot)) <= set(PALETTE)
        ids = re.findall(r' id="([^"]+)"', plot)
        assert ids
        assert all(item.startswith(f"{name}-") for item in ids)
        assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', plot)) <= set(ids)
    assert plots[0] == dot_plot("a", "d", [Dots("x", [1.0, 2.0])], "y", 1.5)


def test_names_are_never_cut() -> None:
    name = "against: " + "x" * 64 + " (control): 1.000 (0.99\u20131.01)"
    assert "".join(lines_of(name)).replace(" ", "") == name.replace(" ", "")
    plot = interval_plot("p", "d", [Interval(name, 1.0, 0.9, 1.1)], "ratio")
    assert "x" * 64 in "".join(texts(plot)).replace(" ", "")


@pytest.mark.parametrize(
    ("value", "text"), [(1e-6, "1e-6"), (0.01, "0.01"), (1.0, "1"), (1000.0, "1000"), (1e5, "1e5")]
)
def test_powers_of_ten(value: float, text: str) -> None:
    assert power_of_ten(value) == text
