"""Data files with a text column and perhaps a label column: csv, tsv, jsonl and parquet."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapter_export.errors import InputError

# One row as (where it is in the file, its values by column): "line 7" of a text file, "row 7" of a parquet file.
_Rows = Iterator[tuple[str, Mapping[str, Any]]]

_INTEGER = re.compile(r"[+-]?\d+")


@dataclass(frozen=True)
class Table:
    """The rows of one file, in its order. labels: None where no label column was asked for. places: as in `_Rows`."""

    path: Path
    texts: Sequence[str]
    labels: Sequence[str] | None
    places: Sequence[str]

    def __len__(self) -> int:
        return len(self.texts)


def read_table(path: str | Path, text_column: str, label_column: str | None) -> Table:
    """Read a file by its extension; labels may be text or whole numbers, and are kept as text.

    Raises InputError, naming the file and the place in it, for an unknown extension, a file that is missing, empty,
    or not what its extension says, a missing column, and a row whose value is missing or of another type.
    """
    path = Path(path)
    if (ending := path.suffix.lower()) not in _READERS:
        raise InputError(f"{path}: expected a file ending in {', '.join(_READERS)}, found {ending or 'no ending'!r}")
    if not path.is_file():
        raise InputError(f"{path}: expected a file, found {'a folder' if path.is_dir() else 'nothing'}")
    columns = (text_column,) if label_column is None else (text_column, label_column)
    texts, labels, places = [], [], []
    try:
        for place, row in _READERS[ending](path, columns):
            texts.append(_value(path, place, row, text_column, str))
            if label_column is not None:
                labels.append(_value(path, place, row, label_column, (str, int)))
            places.append(place)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not texts:
        raise InputError(f"{path}: expected rows, found none")
    return Table(path, texts, None if label_column is None else labels, places)


def label_set(table: Table) -> tuple[str, ...]:
    """The different labels of a table, sorted; as numbers where all of them are whole numbers.

    Raises InputError for fewer than two.
    """
    labels = set(table.labels or ())
    if len(labels) < 2:
        raise InputError(f"{table.path}: expected at least two different labels, found {sorted(labels)}")
    if all(_INTEGER.fullmatch(label) for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


def label_ids(table: Table, labels: Sequence[str]) -> list[int]:
    """The index in `labels` of each row's label; raises InputError naming the first row whose label is not there."""
    index = {label: i for i, label in enumerate(labels)}
    for place, label in zip(table.places, table.labels or (), strict=True):
        if label not in index:
            known = ", ".join(repr(known) for known in labels[:10]) + (", ..." if len(labels) > 10 else "")
            raise InputError(f"{table.path}: {place}: label {label!r}: expected one of the training labels: {known}")
    return [index[label] for label in table.labels or ()]


def _value(path: Path, place: str, row: Mapping[str, Any], column: str, kind: type | tuple[type, ...]) -> str:
    value = row.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise InputError(f"{path}: {place}: column {column!r}: expected a value, found none")
    if not isinstance(value, kind):
        expected = "text" if kind is str else "text or a whole number"
        raise InputError(f"{path}: {place}: column {column!r}: expected {expected}, found {value!r:.60}")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _require(path: Path, wanted: Sequence[str], found: Sequence[str]) -> None:
    for column in wanted:
        if column not in found:
            names = ", ".join(repr(name) for name in found) or "none"
            raise InputError(f"{path}: column {column!r} is missing; its columns are {names}")
        if list(found).count(column) > 1:
            raise InputError(f"{path}: column {column!r}: expected once, found {list(found).count(column)} times")


def _delimited(delimiter: str) -> Callable[[Path, Sequence[str]], _Rows]:
    def read(path: Path, columns: Sequence[str]) -> _Rows:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter=delimiter, strict=True)
            try:
                if (header := next(rows, None)) is None:
                    raise InputError(f"{path}: expected a header and rows, found an empty file")
                _require(path, columns, header)
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


def _jsonl(path: Path, columns: Sequence[str]) -> _Rows:
    found: dict[str, None] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}: line {number}: expected a JSON object, found: {error}") from None
            if not isinstance(row, dict):
                raise InputError(f"{path}: line {number}: expected a JSON object, found {type(row).__name__}")
            if not found:
                # A later row may lack a column (that is a missing value), the first one says which columns there are.
                found = dict.fromkeys(row)
                _require(path, columns, list(found))
            yield f"line {number}", row


def _parquet(path: Path, columns: Sequence[str]) -> _Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _require(path, columns, file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches(columns=list(columns)):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable parquet file: {error}") from None


_READERS: Mapping[str, Callable[[Path, Sequence[str]], _Rows]] = {
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
