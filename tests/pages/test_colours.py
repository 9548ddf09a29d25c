"""Contrast by the formula of WCAG 2.2, of every pair of colours that the style sheet and the plots put together."""

from __future__ import annotations

import pytest

from adapter_export.pages.colours import MARKS, PALETTE

TEXT = [
    *((ink, paper) for ink in ("ink", "dim", "link", "pass", "inconclusive", "fail") for paper in ("paper", "card")),
    *(("ink", back) for back in ("heat0", "heat1", "heat2", "heat3", "band")),
]
GRAPHICS = [(mark, paper) for mark in MARKS for paper in ("paper", "card")]


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_the_formula() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", [0, 1])
@pytest.mark.parametrize(("pairs", "least"), [(TEXT, 4.5), (GRAPHICS, 3.0)])
def test_contrast(scheme: int, pairs: list[tuple[str, str]], least: float) -> None:
    found = {pair: contrast(*(PALETTE[name][scheme] for name in pair)) for pair in pairs}
    assert {pair: round(value, 2) for pair, value in found.items() if value < least} == {}


def test_plots_can_be_recoloured() -> None:
    """Plots are drawn in the light colours, each of which is then replaced by its name."""
    light = [shades[0] for shades in PALETTE.values()]
    assert len(set(light)) == len(light)
