"""Conversations of a data file: lists of messages in jsonl and parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapter_export.errors import InputError
from adapter_export.training.columns import Columns
from adapter_export.training.row_readers import read_rows
from adapter_export.training.tables import required

# The role whose messages are learned.
ASSISTANT = "assistant"


@dataclass(frozen=True)
class Conversation:
    """One conversation.

    Attributes:
        messages: The messages, each `{"role": ..., "content": ..., ...}`.
        first: Index of the first message that may be learned.
    """

    messages: list[dict[str, Any]]
    first: int = 0

    @property
    def turns(self) -> list[int]:
        """Indices of the messages that are learned."""
        roles = [message["role"] for message in self.messages]
        return [index for index, role in enumerate(roles) if role == ASSISTANT and index >= self.first]


@dataclass(frozen=True)
class Conversations:
    """The conversations of one file, in its order.

    Attributes:
        path: The file.
        rows: The conversations.
        places: Where each of them is in the file (`line 7`).
    """

    path: Path
    rows: Sequence[Conversation]
    places: Sequence[str]

    def __len__(self) -> int:
        return len(self.rows)


def read_conversations(path: str | Path, columns: Columns) -> Conversations:
    """Reads the messages of each row.

    Args:
        path: The data file.
        columns: The columns. The messages of a label column follow those of the text column, and only they are learned.

    Raises:
        InputError: As for `read_rows`; a value is no list of messages; or a row has no message of the assistant to
            learn. The error names the file and the place in it.
    """
    path = Path(path)
    rows, places = [], []
    for place, row in read_rows(path, lambda found: required(path, columns.names, found)):
        parts = [_messages(f"{path}: {place}: column {name!r}", row.get(name)) for name in columns.names]
        messages = [message for part in parts for message in part]
        conversation = Conversation(messages, first=len(messages) - len(parts[-1]))
        said = [messages[turn]["content"] for turn in conversation.turns]
        if not said or not all(content.strip() for content in said):
            expected = f"text in each message of role {ASSISTANT!r}" if said else f"a message of role {ASSISTANT!r}"
            raise InputError(f"{path}: {place}: column {columns.names[-1]!r}: expected {expected}, found none")
        rows.append(conversation)
        places.append(place)
    if not rows:
        raise InputError(f"{path}: expected rows, found none")
    return Conversations(path, rows, places)


def _messages(where: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise InputError(f"{where}: expected a list of messages, found {value!r:.60}")
    for number, message in enumerate(value, start=1):
        if not isinstance(message, Mapping):
            raise InputError(f"{where}: message {number}: expected an object, found {message!r:.60}")
        for field in ("role", "content"):
            if not isinstance(message.get(field), str):
                found = repr(message[field])[:60] if field in message else f"fields {', '.join(map(repr, message))}"
                raise InputError(f"{where}: message {number}: field {field!r}: expected text, found {found}")
    # In a parquet column each message has all fields that any message has.
    return [{name: item for name, item in message.items() if item is not None} for message in value]
