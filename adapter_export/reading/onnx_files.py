"""Checks ONNX files, and the weight files that they name, before ONNX Runtime or onnx opens them.

A graph says where a tensor's values lie: path, offset and length. Such tensors are in the graph, in the graphs of its
nodes (If, Loop), in constants, and in functions. So all messages of the file are checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_export.errors import InputError
from adapter_export.reading.files import present, read_bytes, size_of

if TYPE_CHECKING:
    import onnx

# The largest size of a protobuf message.
_MAX_BYTES = 2 << 30
_LOCATION, _OFFSET, _LENGTH = "location", "offset", "length"
_DIGITS = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True)
class External:
    """A weight file that a graph names.

    Attributes:
        location: Its path, as the graph has it.
        path: The file; None if it is missing.
        tensors: How many of the graph's tensors lie in it.
    """

    location: str
    path: Path | None
    tensors: int


def read_model(path: Path) -> onnx.ModelProto:
    """Returns the model in the file, without weights from other files. Raises InputError if the file is no ONNX
    file.
    """
    return _parsed(path, read_bytes(path, _MAX_BYTES))


def check_model(path: Path) -> None:
    """Checks that the file, and each weight file that it names, may be opened.

    Raises:
        InputError: A file is not a regular file in the folder, or shorter than the graph says.
    """
    data = read_bytes(path, _MAX_BYTES)
    # A tensor cannot name a file without this word, and searching for it is faster than parsing.
    if _LOCATION.encode() not in data:
        return
    for found in external_files(path, _parsed(path, data)):
        if found.path is None:
            raise InputError(f"{path.parent / found.location}: no such file, though {path.name} has weights there")


def external_files(path: Path, model: onnx.ModelProto) -> list[External]:
    """Returns the weight files that the model at `path` names.

    Raises:
        InputError: A file is not in the folder, or too short. A missing file is no error.
    """
    sizes: dict[str, int | None] = {}
    counts: dict[str, int] = {}
    for name, entries in _external_tensors(path, model):
        where = f"{path}: tensor {name[:100]!r}"
        location = _inside(where, entries.get(_LOCATION, ""))
        if location not in sizes:
            file = path.parent / location
            sizes[location] = size_of(file, path.parent) if present(file) else None
        counts[location] = counts.get(location, 0) + 1
        numbers = {}
        for field in (_OFFSET, _LENGTH):
            text = entries.get(field, "0")
            if not _DIGITS.fullmatch(text):
                raise InputError(f"{where}: external data: expected a number as {field}, found {text[:40]!r}")
            numbers[field] = int(text)
        size, end = sizes[location], sum(numbers.values())
        if size is not None and end > size:
            raise InputError(
                f"{where}: external data: expected {end:,} bytes in {path.parent / location}, found {size:,}"
            )
    return [External(name, path.parent / name if sizes[name] is not None else None, counts[name]) for name in counts]


def _parsed(path: Path, data: bytes) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, RuntimeError) as error:  # Which of them depends on protobuf's back end.
        raise InputError(f"{path}: not a readable ONNX file: {' '.join(str(error).split())[:200]}") from None
    return model


def _external_tensors(path: Path, message: Any) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields the tensors anywhere in a message that name a file, by name, with their entries about it."""
    pending = [message]
    while pending:
        current = pending.pop()
        for field, value in current.ListFields():
            if field.message_type is None:
                _check_text(path, field, value)
                continue
            repeated = hasattr(value, "__len__")
            if field.name == "external_data" and repeated:
                entries: dict[str, str] = {}
                for entry in value:
                    for part, text in entry.ListFields():
                        _check_text(path, part, text)
                    if entries.setdefault(entry.key, entry.value) != entry.value:
                        raise InputError(
                            f"{path}: tensor {current.name[:100]!r}: external data: field {entry.key[:40]!r} twice"
                        )
                yield current.name, entries
            elif repeated:
                pending.extend(value)
            else:
                pending.append(value)


def _check_text(path: Path, field: Any, value: Any) -> None:
    """Raises InputError for a text that is not UTF-8, for which protobuf returns bytes."""
    texts = (value,) if isinstance(value, (str, bytes)) else value
    if field.type == field.TYPE_STRING and any(isinstance(text, bytes) for text in texts):
        raise InputError(f"{path}: not a readable ONNX file: field {field.name!r}: expected UTF-8")


def _inside(where: str, location: str) -> str:
    """Returns the path, which must be one below the graph's folder on any system. Raises InputError otherwise."""
    parts = location.split("/")
    if not location.isprintable() or set(location) & set("\\:\0") or not all(parts) or {".", ".."} & set(parts):
        raise InputError(f"{where}: external data: expected a path inside the folder, found {location[:200]!r}")
    return location
