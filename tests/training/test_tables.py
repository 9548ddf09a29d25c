"""Data files: the same rows from every format, and every broken one refused by name and place."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from adapter_export.errors import InputError
from adapter_export.training.tables import label_ids, label_set, read_table
from tests.training.conftest import write_jsonl

# Quotes, the delimiters, a line break, letters outside ASCII, and text that looks like other things.
TEXTS = ['He said "no",\tand\nleft', "été", "NA", "2020-01-01", "007"]
LABELS = [2, 10, 2, -1, 10]


def write(path: Path) -> Path:
    match path.suffix:
        case ".jsonl":
            rows = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
            return write_jsonl(path, rows)
        case ".parquet":
            pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS, "label": LABELS}), path)
        case _:
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, delimiter="," if path.suffix == ".csv" else "\t")
                writer.writerows([("text", "label"), *zip(TEXTS, LABELS, strict=True)])
    return path


@pytest.mark.parametrize("name", ["data.csv", "data.tsv", "data.jsonl", "data.parquet", "DATA.CSV"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    table = read_table(write(tmp_path / name.lower()).rename(path), "text", "label")
    assert list(table.texts) == TEXTS
    assert list(table.labels or ()) == [str(label) for label in LABELS]
    assert read_table(path, "text", None).labels is None


def test_whole_numbers_sort_as_numbers_and_words_as_words(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "data.csv"), "text", "label")
    assert label_set(table) == ("-1", "2", "10")
    assert label_ids(table, ("-1", "2", "10")) == [1, 2, 1, 0, 2]
    words = write_jsonl(tmp_path / "w.jsonl", [{"text": "a", "label": label} for label in ("b", "10", "9")])
    assert label_set(read_table(words, "text", "label")) == ("10", "9", "b")


def test_columns_are_chosen_and_others_ignored(tmp_path: Path) -> None:
    rows = [{"body": "a", "x": None, "kind": True}, {"kind": False, "body": "b"}]
    table = read_table(write_jsonl(tmp_path / "data.jsonl", rows), "body", "kind")
    assert (list(table.texts), list(table.labels or ())) == (["a", "b"], ["true", "false"])


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_bytes(b"\xef\xbb\xbftext,label\na,b\n\n")
    assert list(read_table(tmp_path / "data.csv", "text", "label").texts) == ["a"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.txt", b"text\na", r"expected a file ending in \.csv, \.tsv, \.jsonl, \.parquet, found '\.txt'"),
        ("data", b"text\na", "found 'no ending'"),
        ("data.csv", None, "no such file"),
        ("data.csv", b"", "expected a header and rows, found an empty file"),
        ("data.csv", b"text,label\n", "expected rows, found none"),
        ("data.jsonl", b"\n\n", "expected rows, found none"),
        ("data.csv", b"body,label\na,b", "column 'text' is missing; its columns are 'body', 'label'"),
        ("data.jsonl", b'{"text": "a"}', "column 'label' is missing; its columns are 'text'"),
        ("data.csv", b"text,label,text\na,b,c", "column 'text': expected once, found 2 times"),
        ("data.csv", b"text,label\na,b\nc,d,e", "line 3: expected 2 cells as in the header, found 3"),
        ("data.tsv", b"text\tlabel\na", "line 2: expected 2 cells as in the header, found 1"),
        ("data.csv", b'text,label\n"a"b,c', "line 2: broken row"),
        ("data.csv", b'text,label\n"a,b\n', "line 2: broken row"),
        ("data.csv", b"text,label\na,\n", "line 2: column 'label': expected a value, found none"),
        ("data.csv", b"text,label\n  ,a\n", "line 2: column 'text': expected a value, found none"),
        ("data.csv", b"text,label\n\xff,a\n", "expected UTF-8 text"),
        ("data.jsonl", b'{"text": "a", "label": "b"}\n{"text": "c"', "line 2: expected a JSON object"),
        ("data.jsonl", b'["text", "label"]', "line 1: expected a JSON object, found list"),
        ("data.jsonl", b'{"text": "a", "label": "b"}\n{"text": "c"}', "line 2: column 'label': expected a value"),
        ("data.jsonl", b'{"text": 5, "label": "b"}', "line 1: column 'text': expected text, found 5"),
        ("data.jsonl", b'{"text": "a", "label": 0.5}', "column 'label': expected text or a whole number, found 0.5"),
        (
            "data.jsonl",
            b'{"text": "\\ud83d\\ude00", "label": "b"}\n{"text": "\\uD83D", "label": "b"}',
            "line 2: expected a JSON object, found: half of a surrogate pair",
        ),
        ("data.parquet", b"PAR1 but not really", "not a readable parquet file"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_table(path, "text", "label")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_null_in_parquet_is_named_by_its_row(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None], "label": ["x", "y"]}), path)
    with pytest.raises(InputError, match="row 2: column 'text': expected a value, found none"):
        read_table(path, "text", "label")


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "data.csv")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"data\.csv: cannot be read: Permission denied"):
        read_table(path, "text", "label")


def test_a_folder_is_no_data_file(tmp_path: Path) -> None:
    (tmp_path / "data.csv").mkdir()
    with pytest.raises(InputError, match="expected a regular file, found a folder"):
        read_table(tmp_path / "data.csv", "text", "label")


def test_labels_must_be_known_and_more_than_one(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "data.csv"), "text", "label")
    with pytest.raises(InputError, match=r"data\.csv: line 4: label '10': expected one of .*: '2', '-1'"):
        label_ids(table, ("2", "-1"))
    alike = write_jsonl(tmp_path / "alike.jsonl", [{"text": "a", "label": "x"}] * 3)
    with pytest.raises(InputError, match=r"expected at least two different labels, found \['x'\]"):
        label_set(read_table(alike, "text", "label"))
