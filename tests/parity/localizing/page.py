"""The tables of docs/where-it-broke.md, which tests print and hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adapter_export.parity.localizing.departure import ParityDeparture

PAGE = Path(__file__).parents[3] / "docs" / "where-it-broke.md"


def row(mutant: str, planted: str, departure: ParityDeparture | None) -> str:
    """Returns the line of a mutant: the planted site, whether it was named, otherwise what was, and the cause."""
    named = None if departure is None else departure.site
    cause = "-" if departure is None else departure.cause.name
    return f"| {mutant} | `{planted}` | {'yes' if named == planted else f'no: `{named}`'} | {cause} |"


def check_page(table: str, rows: Sequence[str]) -> None:
    """Fails if the page has other lines in a table. The right ones are in the message.

    Args:
        table: Name of the table, in a comment above it.
        rows: The lines that it must have.
    """
    text = PAGE.read_text(encoding="utf-8")
    start = text.index(f"<!-- table: {table} -->")
    lines = [line for line in text[start:].partition("\n\n")[0].splitlines() if line.startswith("|")][2:]
    assert lines == list(rows), "\n".join(["docs/where-it-broke.md must have:", *rows])
