"""Reads rows of data files: csv, tsv, jsonl and parquet."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapter_export.errors import InputError
from adapter_export.reading.files import regular_file
from adapter_export.reading.json_text import NotJson, parse
from adapter_export.reading.links import folder_of

# Rows, each as (its place in the file, its values by column). A place is "line 7" in a text file, "row 7" in parquet.
Rows = Iterator[tuple[str, Mapping[str, Any]]]
# Takes the columns that a file has, and returns those to read. Raises InputError for a file that lacks them.
Choose = Callable[[Sequence[str]], Sequence[str]]
_Reader = Callable[[Path, Choose], Rows]


def read_rows(path: str | Path, choose: Choose) -> Rows:
    """Reads the rows of a file, by its extension.

    Args:
        path: The data file.
        choose: Chooses the columns to read. It is called once, before the first row.

    Raises:
        InputError: The extension is unknown, or the file is missing, cannot be read, or is not in the format of its
            extension. The error names the file and the place in it.
    """
    path = Path(path)
    if (ending := path.suffix.lower()) not in _READERS:
        raise InputError(f"{path}: expected a file ending in {', '.join(_READERS)}, found {ending or 'no ending'!r}")
    regular_file(path, folder_of(path))
    try:
        yield from _READERS[ending](path, choose)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def _delimited(delimiter: str) -> _Reader:
    def read(path: Path, choose: Choose) -> Rows:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter=delimiter, strict=True)
            try:
                if (header := next(rows, None)) is None:
                    raise InputError(f"{path}: expected a header and rows, found an empty file")
                choose(header)
                for cells in rows:
                    if cells and len(cells) != len(header):
                        raise InputError(
                            f"{path}: line {rows.line_num}: expected {len(header)} cells as in the header, "
                            f"found {len(cells)}"
                        )
                    if cells:
                        yield f"line {rows.line_num}", dict(zip(header, cells, strict=True))
            except csv.Error as error:
                raise InputError(f"{path}: line {rows.line_num}: broken row: {error}") from None
            except UnicodeDecodeError as error:
                raise InputError(f"{path}: expected UTF-8 text, found {error.reason} at byte {error.start}") from None

    return read


def _jsonl(path: Path, choose: Choose) -> Rows:
    found: dict[str, None] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = parse(line.decode("utf-8-sig"))
            except (NotJson, UnicodeDecodeError) as error:
                raise InputError(f"{path}: line {number}: expected a JSON object, found: {error}") from None
            if not isinstance(row, dict):
                raise InputError(f"{path}: line {number}: expected a JSON object, found {type(row).__name__}")
            if not found:
                # The first row says which columns there are. A later row may lack a column: then the value is missing.
                found = dict.fromkeys(row)
                choose(list(found))
            yield f"line {number}", row


def _parquet(path: Path, choose: Choose) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = choose(file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches(columns=list(columns)):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable parquet file: {error}") from None


_READERS: Mapping[str, _Reader] = {
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
