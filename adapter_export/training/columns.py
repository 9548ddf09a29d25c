"""Finds the columns of a data file that training needs, by the task and by the names of the columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adapter_export.errors import InputError
from adapter_export.training.row_readers import read_rows


@dataclass(frozen=True)
class Columns:
    """Names of the columns to read.

    Attributes:
        text: The column that the model reads.
        label: The column with a class, or with the text to write after `text`; None: all of the text is learned.
        messages: Whether the values are lists of messages.
    """

    text: str
    label: str | None = None
    messages: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return (self.text,) if self.label is None else (self.text, self.label)


# A column of this name holds messages.
_MESSAGES = "messages"
# The possible columns of each task, by the names that are common for them.
_KNOWN: Mapping[str, tuple[Columns, ...]] = {
    "text-classification": (Columns("text", "label"),),
    "causal-lm": (Columns("text"), Columns("prompt", "completion"), Columns(_MESSAGES)),
    "seq2seq-lm": (Columns("text", "label"), Columns("prompt", "completion")),
}


def find_columns(path: str | Path, task: str, text: str | None = None, label: str | None = None) -> Columns:
    """Returns the columns of a file that `task` trains on.

    Args:
        path: The data file.
        task: The task.
        text: Name of the text column; None: found by its usual names.
        label: Name of the label column; None: found by its usual names.

    Raises:
        InputError: The file has none of the combinations of columns that the task can train on, or several.
    """
    possible = _possible(task, text, label)
    found: list[str] = []

    def note(names: Sequence[str]) -> Sequence[str]:
        found.extend(names)
        return names

    _, first = next(read_rows(Path(path), note), ("", {}))
    fitting = [columns for columns in possible if set(columns.names) <= set(found)]
    if len(possible) == 1 or len(fitting) == 1:
        columns = (fitting or possible)[0]
        messages = columns.text == _MESSAGES or isinstance(first.get(columns.text), list)
        return replace(columns, messages=task == "causal-lm" and messages)
    if not fitting:
        expected = ", or ".join(_listed(columns.names) for columns in possible)
        raise InputError(f"{path}: expected columns {expected}; its columns are {_listed(found, ', ') or 'none'}")
    several = " as well as ".join(_listed(columns.names) for columns in fitting)
    raise InputError(f"{path}: found {several}; say with --text-column and --label-column what to train on")


def _possible(task: str, text: str | None, label: str | None) -> list[Columns]:
    if task == "causal-lm" and text is not None:
        return [Columns(text, label)]
    return list(dict.fromkeys(Columns(text or usual.text, label or usual.label) for usual in _KNOWN[task]))


def _listed(names: Sequence[str], joint: str = " and ") -> str:
    return joint.join(repr(name) for name in names)
