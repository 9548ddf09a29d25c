"""Lines of data files end where their formats say."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from adapter_export.training.row_readers import read_rows

TEXTS = ["good\u2028day", "bad\u0085day\u2029", "a\x0bb\x0cc\x1cd", "two\nlines", "fine"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_json_lines(tmp_path: Path, end: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(end.join(json.dumps({"text": text}, ensure_ascii=False) for text in TEXTS).encode())
    assert [row["text"] for _, row in read_rows(str(path), list)] == TEXTS


@pytest.mark.parametrize(("ending", "delimiter"), [(".csv", ","), (".tsv", "\t")])
def test_tables(tmp_path: Path, ending: str, delimiter: str) -> None:
    path = tmp_path / f"rows{ending}"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["text", "label"])
        writer.writerows([text, "x"] for text in TEXTS)
    assert [row["text"] for _, row in read_rows(path, list)] == TEXTS
