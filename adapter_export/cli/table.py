"""Tables for people."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

# Width of tables in files and pipes, which have none of their own.
_FILE_COLUMNS = 140


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a titled table on stdout; all but the first column are aligned right when they hold numbers."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    body = [tuple(row) for row in rows]
    for index, column in enumerate(columns):
        numeric = index > 0 and bool(body) and all(row[index][:1].isdigit() or row[index] == "-" for row in body)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in body:
        table.add_row(*row)
    # Cells are data: "[b]" and ":x:" in them are text.
    console = Console(markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _FILE_COLUMNS
    console.print(title, soft_wrap=True, highlight=False)
    console.print(table)
