"""ONNX files, and the files that they name for their weights, checked before ONNX Runtime or onnx opens those.

A graph says where a tensor's numbers lie: a path, an offset, a length. Such tensors stand in the graph, in the graphs
of its nodes (If, Loop), in constants, and in functions: every message of the file is looked at.
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

# What protobuf can hold.
_MAX_BYTES = 2 << 30
_LOCATION, _OFFSET, _LENGTH = "location", "offset", "length"
_DIGITS = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True)
class External:
    """A file of weights that a graph names, and how many of its tensors lie there. path: None where it is missing."""

    location: str
    path: Path | None
    tensors: int


def read_model(path: Path) -> onnx.ModelProto:
    """The model in the file, without the weights that other files hold. Raises InputError for a file that is none."""
    return _parsed(path, read_bytes(path, _MAX_BYTES))


def check_model(path: Path) -> None:
    """Raise InputError unless the file, and every file of weights that it names, may be opened: a regular file in its
    folder, as long as the graph says."""
    data = read_bytes(path, _MAX_BYTES)
    # No tensor can name a file without this word, and parsing takes longer than looking for it.
    if _LOCATION.encode() not in data:
        return
    for found in external_files(path, _parsed(path, data)):
        if found.path is None:
            raise InputError(f"{path.parent / found.location}: no such file, though {path.name} has weights there")


def external_files(path: Path, model: onnx.ModelProto) -> list[External]:
    """The files of weights that the model at `path` names. Raises InputError for one that is no file of its folder, or
    too short; not for one that is missing."""
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
    except (DecodeError, RuntimeError) as error:  # by back end
        raise InputError(f"{path}: not a readable ONNX file: {' '.join(str(error).split())[:200]}") from None
    return model


def _external_tensors(path: Path, message: Any) -> Iterator[tuple[str, dict[str, str]]]:
    """The tensors anywhere in a message that name a file, by name, with what they say of it."""
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
    """Texts are such: of one that is no UTF-8, protobuf gives the bytes."""
    texts = (value,) if isinstance(value, (str, bytes)) else value
    if field.type == field.TYPE_STRING and any(isinstance(text, bytes) for text in texts):
        raise InputError(f"{path}: not a readable ONNX file: field {field.name!r}: expected UTF-8")


def _inside(where: str, location: str) -> str:
    """A path below the graph's folder, on any system."""
    parts = location.split("/")
    if not location.isprintable() or set(location) & set("\\:\0") or not all(parts) or {".", ".."} & set(parts):
        raise InputError(f"{where}: external data: expected a path inside the folder, found {location[:200]!r}")
    return location
