"""Which columns a task trains on: by their usual names, by the caller's, and never by guessing between two."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from adapter_export.errors import InputError
from adapter_export.training.columns import Columns, find_columns
from tests.training.conftest import write_jsonl

TEXT, LABEL, PROMPT, COMPLETION = "text", "label", "prompt", "completion"


def data(folder: Path, *names: str) -> Path:
    return write_jsonl(folder / "data.jsonl", [dict.fromkeys(names, "a")])


@pytest.mark.parametrize(
    ("task", "there", "given", "found"),
    [
        ("causal-lm", (TEXT, "id"), (), (TEXT,)),
        ("causal-lm", (TEXT, LABEL), (), (TEXT,)),
        ("causal-lm", (PROMPT, COMPLETION, LABEL), (), (PROMPT, COMPLETION)),
        ("causal-lm", (TEXT, PROMPT, COMPLETION), (TEXT,), (TEXT,)),
        ("causal-lm", (TEXT, PROMPT, COMPLETION), (PROMPT, COMPLETION), (PROMPT, COMPLETION)),
        ("causal-lm", ("question", "answer"), ("question", "answer"), ("question", "answer")),
        ("causal-lm", (PROMPT, "answer"), (None, "answer"), (PROMPT, "answer")),
        ("seq2seq-lm", (TEXT, LABEL), (), (TEXT, LABEL)),
        ("seq2seq-lm", (PROMPT, COMPLETION), (), (PROMPT, COMPLETION)),
        ("seq2seq-lm", ("en", LABEL), ("en",), ("en", LABEL)),
        ("seq2seq-lm", ("en", "de"), ("en", "de"), ("en", "de")),
        ("text-classification", (TEXT, LABEL, PROMPT, COMPLETION), (), (TEXT, LABEL)),
    ],
)
def test_found_by_name(
    tmp_path: Path, task: str, there: tuple[str, ...], given: tuple[str | None, ...], found: tuple[str, ...]
) -> None:
    assert find_columns(data(tmp_path, *there), task, *given) == Columns(*found)


@pytest.mark.parametrize(
    ("task", "there", "given", "message"),
    [
        (
            "causal-lm",
            ("body",),
            (),
            r"expected columns 'text', or 'prompt' and 'completion'.*; its columns are 'body'",
        ),
        ("causal-lm", (PROMPT,), (), "expected columns .*; its columns are 'prompt'"),
        (
            "causal-lm",
            (TEXT, PROMPT, COMPLETION),
            (),
            "found 'text' as well as 'prompt' and 'completion'; say with --text-column and --label-column",
        ),
        ("seq2seq-lm", (TEXT,), (), "expected columns 'text' and 'label', or 'prompt' and 'completion'; its"),
        (
            "seq2seq-lm",
            (TEXT, LABEL, PROMPT, COMPLETION),
            (),
            "'text' and 'label' as well as 'prompt' and 'completion'",
        ),
    ],
)
def test_none_or_several(
    tmp_path: Path, task: str, there: tuple[str, ...], given: tuple[str | None, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        find_columns(path := data(tmp_path, *there), task, *given)
    assert str(path) in str(caught.value)


def test_in_every_format(tmp_path: Path) -> None:
    for delimiter, ending in ((",", "csv"), ("\t", "tsv")):
        path = tmp_path / f"data.{ending}"
        path.write_text(f"id{delimiter}prompt{delimiter}completion\n")
        assert find_columns(path, "causal-lm") == Columns(PROMPT, COMPLETION)
    pyarrow.parquet.write_table(pyarrow.table({PROMPT: ["a"], COMPLETION: ["b"]}), tmp_path / "data.parquet")
    assert find_columns(tmp_path / "data.parquet", "causal-lm") == Columns(PROMPT, COMPLETION)
