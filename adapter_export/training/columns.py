"""Which columns of a data file hold what, by the task and the names they have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adapter_export.errors import InputError
from adapter_export.training.row_readers import read_rows


@dataclass(frozen=True)
class Columns:
    """text: what the model reads. label: a class, or the text to write after it; None: all of the text is learned.
    messages: the values are lists of messages.
    """

    text: str
    label: str | None = None
    messages: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return (self.text,) if self.label is None else (self.text, self.label)


# Holds messages, whatever is found in it.
_MESSAGES = "messages"
# What files of a task are made of, by the names that the ecosystem gives these columns.
_KNOWN: Mapping[str, tuple[Columns, ...]] = {
    "text-classification": (Columns("text", "label"),),
    "causal-lm": (Columns("text"), Columns("prompt", "completion"), Columns(_MESSAGES)),
    "seq2seq-lm": (Columns("text", "label"), Columns("prompt", "completion")),
}


def find_columns(path: str | Path, task: str, text: str | None = None, label: str | None = None) -> Columns:
    """The columns of a file that `task` trains on. text, label: as the caller names them; None: by their usual names.

    Raises InputError for a file that has none of the task's kinds of columns, or several.
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
