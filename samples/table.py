"""Tables in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

# Columns of a table that goes to a file or a pipe.
WIDTH = 140


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; all but its first column are aligned right."""
    table = Table()
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    print(title)
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)
