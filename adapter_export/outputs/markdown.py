"""Writes README.md files for the Hugging Face hub. Texts of others are escaped, so that they stay texts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from adapter_export.terminal import visible

# What Markdown, its tables, its formulas and HTML give a meaning, and the colon of links.
_SPECIAL = re.compile(r"[\\`*_{}\[\]<>()#!|~&$:]|\bwww\.")
# Texts that are texts in YAML without quotes too, but for the words that are values.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9._/-]*")
_VALUES = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})
_MAX_TEXT = 120


def escaped(text: object, most: int = _MAX_TEXT) -> str:
    """Returns a text of others for one line of Markdown: it has no markup, and at most `most` characters are shown."""
    shown = " ".join(visible(str(text), lines=False).split())
    shown = shown if len(shown) <= most else f"{shown[:most]}..."
    return _SPECIAL.sub(lambda found: f"{found[0][:-1]}\\." if found[0].endswith(".") else f"\\{found[0]}", shown)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Returns the lines of a table. The texts must be escaped."""
    lines = [columns, ["---"] * len(columns), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def front_matter_lines(fields: Mapping[str, str | Sequence[str]]) -> list[str]:
    """Returns the lines of a YAML block with these fields: texts, and lists of texts."""
    lines = ["---"]
    for name, value in fields.items():
        if isinstance(value, str):
            lines.append(f"{name}: {_scalar(value)}")
        else:
            lines += [f"{name}:", *(f"- {_scalar(item)}" for item in value)]
    return [*lines, "---"]


def _scalar(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.casefold() not in _VALUES:
        return text
    # A JSON string is a YAML string too if all of its characters are printable.
    shown = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in visible(text, lines=False))
    return json.dumps(shown, ensure_ascii=False)
