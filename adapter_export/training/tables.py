"""Texts of a data file, each with a label or the text that belongs to it where there is one."""

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
    """The rows of one file, in its order. labels: None where none were asked for. places: as in `readers.Rows`."""

    path: Path
    texts: Sequence[str]
    labels: Sequence[str] | None
    places: Sequence[str]

    def __len__(self) -> int:
        return len(self.texts)


def read_table(path: str | Path, text_column: str, label_column: str | None) -> DataTable:
    """Read a file by its extension; labels may be text or whole numbers, and are kept as text.

    Raises InputError, naming the file and the place in it, for an unknown extension, a file that is missing, empty,
    or not what its extension says, a missing column, and a row whose value is missing or of another type.
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
    """The different labels of a table, sorted; as numbers where all of them are whole numbers.

    Raises InputError for fewer than two.
    """
    labels = set(table.labels or ())
    if len(labels) < 2:
        raise InputError(f"{table.path}: expected at least two different labels, found {sorted(labels)}")
    if all(_INTEGER.fullmatch(label) for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


def label_ids(table: DataTable, labels: Sequence[str]) -> list[int]:
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


def required(path: Path, wanted: Sequence[str], found: Sequence[str]) -> Sequence[str]:
    """`wanted`; raises InputError for a column that is not there, or there twice."""
    for column in wanted:
        if column not in found:
            names = ", ".join(repr(name) for name in found) or "none"
            raise InputError(f"{path}: column {column!r} is missing; its columns are {names}")
        if list(found).count(column) > 1:
            raise InputError(f"{path}: column {column!r}: expected once, found {list(found).count(column)} times")
    return wanted
