"""Data files against Python's own writers and readers of csv and JSON."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from adapter_export.errors import InputError
from adapter_export.training.row_readers import read_rows
from tests.fuzz import mutators
from tests.strategies import damaged, file_of, json_values, texts

# What a cell may hold and Python's writer and reader agree on: no NUL.
cells = texts.filter(lambda text: "\0" not in text)


def rows_of(path: Path) -> list[dict[str, Any]] | str:
    try:
        return [dict(row) for _, row in read_rows(path, lambda columns: columns)]
    except InputError as error:
        return str(error)


@st.composite
def tables(draw: st.DrawFn) -> list[list[str]]:
    columns = draw(st.lists(cells, min_size=1, max_size=3, unique=True))
    rows = draw(st.lists(st.lists(cells, min_size=len(columns), max_size=len(columns)), max_size=4))
    return [columns, *rows]


@given(tables(), st.sampled_from([(".csv", ","), (".tsv", "\t")]), st.booleans())
def test_tables(table: list[list[str]], kind: tuple[str, str], mark: bool) -> None:
    ending, delimiter = kind
    content = io.StringIO()
    # All quoted: Python's writer makes an empty line of a single empty cell otherwise.
    csv.writer(content, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows(table)
    data = content.getvalue().encode("utf-8-sig" if mark else "utf-8")
    with file_of(data, f"a{ending}") as path:
        found = rows_of(path)
    assert found == [dict(zip(table[0], row, strict=True)) for row in table[1:]]


@given(st.lists(st.dictionaries(texts, json_values, min_size=1, max_size=3), max_size=4), st.booleans())
def test_objects(rows: list[dict[str, Any]], ascii_only: bool) -> None:
    data = "\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows).encode()
    with file_of(data, "a.jsonl") as path:
        assert rows_of(path) == rows


CSV = b'text,label\n"a, ""b""\nc",1\n\nd,2\n'
JSONL = b'{"text": "a", "label": 1}\n{"text": "\\u00fc", "label": null}\n'


@given(damaged(CSV) | st.binary(max_size=100))
def test_damaged_tables_end_in_one_line(data: bytes) -> None:
    with file_of(data, "a.csv") as path:
        found = rows_of(path)
    if isinstance(found, str):
        assert len(found.splitlines()) == 1


@given(damaged(JSONL, mutators.of_lines) | st.binary(max_size=100))
def test_damaged_objects_end_in_one_line(data: bytes) -> None:
    with file_of(data, "a.jsonl") as path:
        found = rows_of(path)
    if isinstance(found, str):
        assert len(found.splitlines()) == 1
