"""The colours of pages, each for a light and for a dark background.

Text has a contrast of at least 4.5 to what is behind it, marks in plots at least 3 (WCAG 2.2). Nothing is told by a
colour alone.
"""

from __future__ import annotations

# Name -> colour on a light background, colour on a dark one. Plots are drawn in the light ones, and these are then
# replaced by their names. So no two names have the same light colour.
PALETTE = {
    "ink": ("#1b1f24", "#e6e8eb"),
    "dim": ("#4f5863", "#a9b1bb"),
    "paper": ("#ffffff", "#14171b"),
    "card": ("#f4f6f8", "#1c2127"),
    "rule": ("#d3d9e0", "#3a424b"),
    "link": ("#0b57d0", "#8ab4f8"),
    "pass": ("#116329", "#6fdd8b"),
    "inconclusive": ("#7a4d00", "#f2c14e"),
    "fail": ("#a40e26", "#ff9b93"),
    # Marks in plots.
    "first": ("#1f5fbf", "#7fb0ff"),
    "second": ("#b3470b", "#ffa36b"),
    "third": ("#1a7a3c", "#5fd38a"),
    "fourth": ("#6c3fb0", "#c3a1ff"),
    "band": ("#f3d98b", "#5c4a14"),
    # Backgrounds of a heat map, from far below the limit to above it.
    "heat0": ("#eaf1fb", "#1a2634"),
    "heat1": ("#c9ddf6", "#213f63"),
    "heat2": ("#f7e2a0", "#57470f"),
    "heat3": ("#f8c1ba", "#6d2420"),
}
# Colours of marks, in the order in which plots use them.
MARKS = ("first", "second", "third", "fourth")


def light(name: str) -> str:
    """Returns the colour of this name on a light background."""
    return PALETTE[name][0]


def variables(dark: bool) -> str:
    """Returns the colours as custom properties of CSS.

    Args:
        dark: Whether they are for a dark background.
    """
    return " ".join(f"--{name}: {shades[dark]};" for name, shades in PALETTE.items())
