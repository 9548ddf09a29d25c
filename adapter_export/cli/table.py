"""Prints tables."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from adapter_export.terminal import console, visible

# Width of tables in files and pipes, in characters.
_FILE_COLUMNS = 140


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], legend: str = "") -> None:
    """Prints a table with a title on stdout.

    Columns of numbers are aligned right, except the first column.

    Args:
        title: The title.
        columns: Names of the columns.
        rows: Cells of each row.
        legend: What the columns mean, printed below the table.
    """
    from rich.table import Table

    table = Table()
    body = [tuple(row) for row in rows]
    for index, column in enumerate(columns):
        numeric = index > 0 and bool(body) and all(row[index][:1].isdigit() or row[index] == "-" for row in body)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in body:
        table.add_row(*map(visible, row))
    out = console()
    if not out.is_terminal and "COLUMNS" not in os.environ:
        out.width = _FILE_COLUMNS
    out.print(visible(title, lines=False), soft_wrap=True, highlight=False)
    out.print(table)
    if legend:
        out.print(visible(legend, lines=False), highlight=False)
