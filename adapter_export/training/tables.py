"""Tables of texts from a data file, each with its label or target text where it has one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapter_export.errors import InputError
from adapter_export.training.row_readers import read_rows

_INTEGER = re.compile(r"[+-]?\d+")


@dataclass(frozen=True)
class DataTable:
    """The rows of one file, in its order.

    Attributes:
        path: The file.
        texts: The texts.
        labels: A label for each text; None if no label column was read.
        places: Place of each row in the file, see `row_readers.Rows`.
    """

    path: Path
    texts: Sequence[str]
    labels: Sequence[str] | None
    places: Sequence[str]

    def __len__(self) -> int:
        return len(self.texts)


def read_table(path: str | Path, text_column: str, label_column: str | None) -> DataTable:
    """Reads a file, by its extension.

    Args:
        path: The data file.
        text_column: Name of the column with texts.
        label_column: Name of the column with labels, which may be text or whole numbers and are kept as text; None:
            read no labels.

    Raises:
        InputError: As for `read_rows`; the file is empty; a column is missing; or a value is missing or of another
            type. The error names the file and the place in it.
    """
    path = Path(path)
    columns = (text_column,) if label_column is None else (text_column, label_column)
    texts, labels, places = [], [], []
    for place, row in read_rows(path, lambda found: required(path, columns, found)):
        texts.append(_value(path, place, row, text_column, str))
        if label_column is not None:
            labels.append(_value(path, place, row, label_column, (str, int)))
        places.append(place)
    if not texts:
        raise InputError(f"{path}: expected rows, found none")
    return DataTable(path, texts, None if label_column is None else labels, places)


def label_set(table: DataTable) -> tuple[str, ...]:
    """Returns the different labels of a table. They are sorted, as numbers if all of them are whole numbers.

    Raises:
        InputError: There are fewer than two labels.
    """
    labels = set(table.labels or ())
    if len(labels) < 2:
        raise InputError(f"{table.path}: expected at least two different labels, found {sorted(labels)}")
    if all(_INTEGER.fullmatch(label) for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


def label_ids(table: DataTable, labels: Sequence[str]) -> list[int]:
    """Returns the index in `labels` of each row's label.

    Raises:
        InputError: A label is not in `labels`. The error names the first such row.
    """
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


def required(path: Path, wanted: Sequence[str], found: Sequence[str]) -> Sequence[str]:
    """Returns `wanted`.

    Raises:
        InputError: One of the columns is missing, or there twice.
    """
    for column in wanted:
        if column not in found:
            names = ", ".join(repr(name) for name in found) or "none"
            raise InputError(f"{path}: column {column!r} is missing; its columns are {names}")
        if list(found).count(column) > 1:
            raise InputError(f"{path}: column {column!r}: expected once, found {list(found).count(column)} times")
    return wanted
