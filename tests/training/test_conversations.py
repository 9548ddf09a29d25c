"""Messages in data files: from jsonl and parquet alike, and every bad one refused by its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from adapter_export.errors import InputError
from adapter_export.training.columns import Columns, find_columns
from adapter_export.training.conversations import read_conversations
from tests.training.conftest import write_jsonl

ASK, SAY = {"role": "user", "content": "good night"}, {"role": "assistant", "content": "old dog"}
NAMED = {**ASK, "name": "Ann"}


def test_the_same_from_jsonl_and_parquet(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"messages": [NAMED, SAY]}, {"messages": [ASK, SAY, ASK]}]
    write_jsonl(tmp_path / "data.jsonl", rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "data.parquet")
    for path in (tmp_path / "data.jsonl", tmp_path / "data.parquet"):
        columns = find_columns(path, "causal-lm")
        assert columns == Columns("messages", messages=True)
        read = read_conversations(path, columns)
        assert [row.messages for row in read.rows] == [[NAMED, SAY], [ASK, SAY, ASK]]
        assert [row.turns for row in read.rows] == [[1], [1]]
        assert len(read) == 2


def test_prompt_and_completion(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "data.jsonl", [{"prompt": [ASK, SAY, ASK], "completion": [SAY, ASK, SAY]}])
    columns = find_columns(path, "causal-lm")
    assert columns == Columns("prompt", "completion", messages=True)
    (row,) = read_conversations(path, columns).rows
    assert (row.messages, row.turns) == ([ASK, SAY, ASK, SAY, ASK, SAY], [3, 5])


def test_only_decoders_are_taught_conversations(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "data.jsonl", [{"prompt": [ASK], "completion": [SAY]}])
    assert not find_columns(path, "seq2seq-lm").messages


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": "good night"}, "line 2: column 'messages': expected a list of messages, found 'good night'"),
        ({"messages": []}, r"column 'messages': expected a list of messages, found \[\]"),
        ({"other": 1}, "column 'messages': expected a list of messages, found None"),
        ({"messages": [ASK, "old"]}, "column 'messages': message 2: expected an object, found 'old'"),
        (
            {"messages": [{"from": "human", "value": "good"}]},
            "message 1: field 'role': expected text, found fields 'from', 'value'",
        ),
        ({"messages": [{"role": "user"}]}, "message 1: field 'content': expected text, found fields 'role'"),
        (
            {"messages": [ASK, {"role": "assistant", "content": 5}]},
            "message 2: field 'content': expected text, found 5",
        ),
        ({"messages": [ASK]}, "column 'messages': expected a message of role 'assistant', found none"),
        (
            {"messages": [ASK, {**SAY, "content": " "}]},
            "column 'messages': expected text in each message of role 'assistant', found none",
        ),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = write_jsonl(tmp_path / "data.jsonl", [{"messages": [ASK, SAY]}, row])
    with pytest.raises(InputError, match=message) as caught:
        read_conversations(path, find_columns(path, "causal-lm"))
    assert str(caught.value).startswith(f"{path}: line 2: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": [ASK], "completion": "old"}, "column 'completion': expected a list of messages, found 'old'"),
        ({"prompt": [ASK, SAY], "completion": [ASK]}, "column 'completion': expected a message of role 'assistant'"),
    ],
)
def test_a_completion_is_the_assistants(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = write_jsonl(tmp_path / "data.jsonl", [row])
    with pytest.raises(InputError, match=message):
        read_conversations(path, find_columns(path, "causal-lm"))


def test_text_in_a_column_called_messages_is_no_conversation(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("messages\nold dog\n")
    columns = find_columns(tmp_path / "data.csv", "causal-lm")
    with pytest.raises(InputError, match="line 2: column 'messages': expected a list of messages, found 'old dog'"):
        read_conversations(tmp_path / "data.csv", columns)


def test_a_file_without_rows(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(
        pyarrow.table({"messages": pyarrow.array([], pyarrow.string())}), tmp_path / "d.parquet"
    )
    with pytest.raises(InputError, match=r"d\.parquet: expected rows, found none"):
        read_conversations(tmp_path / "d.parquet", find_columns(tmp_path / "d.parquet", "causal-lm"))
