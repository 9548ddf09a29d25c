"""What `adapter-export run` is asked for: texts of the command line or of a file, each with what it runs with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapter_export.errors import InputError
from adapter_export.reading.files import decoded, read_given
from adapter_export.reading.json_text import NotJson, parse
from adapter_export.reading.shown import shortened
from adapter_export.runtime.adapters.choice import AdapterKey, chosen, is_composed

# Texts are read into memory.
_MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class TextRequest:
    """One text, or one chat.

    Attributes:
        where: How error messages name it.
        given: What its result repeats: `text`, or in a chat `messages`.
        adapter: The adapter or composition; None for the base model.
    """

    where: str
    given: Mapping[str, Any]
    adapter: AdapterKey | None


def parse_choice(text: str, head: str | None = None) -> AdapterKey:
    """Returns the adapter of `NAME`, or the composition of `NAME=STRENGTH,...`.

    Args:
        text: The value of an option --adapter.
        head: The value of the option --head.

    Raises:
        InputError: The text has another form, or a name occurs twice.
    """
    if "=" not in text and "," not in text:
        return text
    strengths: dict[str, float] = {}
    for part in text.split(","):
        name, separator, number = part.partition("=")
        try:
            strength = float(number)
        except ValueError:
            separator = ""
        if not separator or not name:
            raise InputError(f"--adapter {text!r}: expected NAME, or NAME=STRENGTH,..., found {part!r}")
        if name in strengths:
            raise InputError(f"--adapter {text!r}: {name!r} is given twice")
        strengths[name] = strength
    key = chosen(strengths, head)
    assert key is not None
    return key


def text_requests(
    texts: Sequence[str], file: Path | None, adapters: Sequence[str], head: str | None, *, chat: bool
) -> Iterator[TextRequest]:
    """Yields the requests, each text with each adapter.

    Args:
        texts: Texts of the command line.
        file: A file of JSON lines in place of them. A line with a field `adapter` runs with that one alone.
        adapters: Values of the option --adapter; none for the base model.
        head: The value of the option --head, for the compositions among `adapters`.
        chat: Whether a line may have `messages`.

    Raises:
        InputError: An option or a line is not valid.
    """
    keys = [parse_choice(text, head if "=" in text else None) for text in adapters]
    if head is not None and not any("=" in text for text in adapters):
        raise InputError(f"--head {head}: expected with it --adapter NAME=STRENGTH,...")
    everywhere: Sequence[AdapterKey | None] = keys or (None,)
    if file is None:
        yield from (TextRequest("--text", {"text": text}, key) for text in texts for key in everywhere)
        return
    # `splitlines` would cut at characters (U+2028, U+0085) that JSON lets strings hold.
    lines = decoded(file, read_given(file, _MAX_BYTES), "utf-8-sig").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{file}: line {number}"
        try:
            value = parse(line)
        except NotJson as error:
            raise InputError(f"{where}: expected a JSON object, found: {error}") from None
        given = _given(where, value, chat)
        own = own_choice(where, value)
        yield from (TextRequest(where, given, key) for key in (everywhere if own is None else (own,)))


def _given(where: str, value: Any, chat: bool) -> dict[str, Any]:
    """Returns the line's text, or in a chat its messages."""
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        return {"text": value["text"]}
    if not chat:
        raise InputError(f"{where}: expected an object with a field 'text' that is a string")
    messages = value.get("messages") if isinstance(value, dict) else None
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise InputError(f"{where}: expected a field 'text' that is a string, or 'messages', a list of objects")
    return {"messages": messages}


def own_choice(where: str, line: Mapping[str, Any]) -> AdapterKey | None:
    """Returns the adapter or composition that a line names; None if it names none.

    Args:
        where: How error messages name the line.
        line: Its fields, of which `adapter` and `head` are read.

    Raises:
        InputError: One of them has another form.
    """
    own, head = line.get("adapter"), line.get("head")
    if own is not None and not isinstance(own, str | dict):
        raise InputError(
            f"{where}: field 'adapter': expected a string, or an object of strengths by name, found {shortened(own)}"
        )
    if head is not None and (not isinstance(head, str) or not is_composed(own)):
        raise InputError(
            f"{where}: field 'head': expected a string beside an 'adapter' with strengths, found {shortened(head)}"
        )
    try:
        return chosen(own, head)
    except InputError as error:
        raise InputError(f"{where}: field 'adapter': {error}") from None
