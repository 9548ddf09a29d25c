"""Plots: positions worked out by hand, whatever the numbers are."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from adapter_export.benchmarking.svg import Bar, bars, lines, nice_step


@pytest.mark.parametrize(
    ("top", "step"), [(4.0, 1.0), (4.1, 2.0), (8.1, 5.0), (20.1, 10.0), (0.03, 0.01), (1234.0, 500.0)]
)
def test_steps(top: float, step: float) -> None:
    assert nice_step(top) == pytest.approx(step)


def test_lines() -> None:
    found = ElementTree.fromstring(lines("a < b", ["16", "64"], {"x & y": [1.0, 4.0], "z": [None, 2.0]}))
    assert found.get("aria-label") == "a < b"
    first, second = found.findall("g")
    points = [tuple(map(float, point.split(","))) for point in first.find("polyline").get("points", "").split()]  # type: ignore[union-attr]
    # Columns in the middle of two halves of 64..628; zero at 226, the top 4 at 12.
    assert points == [(205.0, 172.5), (487.0, 12.0)]
    assert first.findtext("title") == "x & y"
    assert len(second.findall("circle")) == 1


def test_bars_and_their_band() -> None:
    rows = [Bar("one", 1.0, "1.000", 0.9, 1.1), Bar("two", 2.0, "2.000", 1.5, 2.0)]
    found = ElementTree.fromstring(bars("", rows, band=(1.0, 1.5)))
    widths = [float(group.find("rect").get("width", "")) for group in found.findall("g")]  # type: ignore[union-attr]
    assert widths == [135.0, 270.0]
    band = found.find("rect")
    assert band is not None
    assert (float(band.get("x", "")), float(band.get("width", ""))) == (355.0, 67.5)
    bounds = found.find("line")
    assert bounds is not None
    assert (bounds.get("x1"), bounds.get("x2")) == ("341.5", "368.5")


def test_a_logarithmic_axis() -> None:
    found = ElementTree.fromstring(bars("", [Bar("a", 1.0, ""), Bar("b", 10.0, ""), Bar("c", 0.0, "")], log=True))
    widths = [float(group.find("rect").get("width", "")) for group in found.findall("g")]  # type: ignore[union-attr]
    assert widths == [0.0, 135.0, 0.0]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none(value: float) -> None:
    found = bars("", [Bar("a", value, "-", value, value), Bar("b", 1.0, "1")])
    assert not re.search("nan|inf", found)
    widths = [float(group.find("rect").get("width", "")) for group in ElementTree.fromstring(found).findall("g")]  # type: ignore[union-attr]
    assert widths == [0.0, 270.0]
