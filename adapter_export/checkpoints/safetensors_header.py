"""Reads the header of a safetensors file strictly: where the bytes of each tensor lie, and that they fill the file.

A file is 8 bytes of little-endian header length n, n bytes of JSON `{name: {dtype, shape,
data_offsets: [begin, end]}}`, then the data. Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapter_export.errors import InputError
from adapter_export.naming import is_tensor_name
from adapter_export.reading.files import open_file
from adapter_export.reading.json_text import NotJson, parse

# Bits of a value, for each type of the format.
_BITS: Mapping[str, int] = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E5M2FNUZ", "F8_E4M3FNUZ", "F8_E8M0"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
_LENGTH_BYTES = 8
# The same limit as in the library, far above any real header.
_MAX_HEADER_BYTES = 100_000_000
# The same limit as in numpy, which keeps the product of sizes quick to compute.
_MAX_RANK = 64
# Mixtures of hundreds of experts have some ten thousand tensors in a file. Each takes some 0.1 ms, whatever its size.
_MAX_TENSORS = 200_000
_METADATA = "__metadata__"


@dataclass(frozen=True)
class Entry:
    """One tensor of a file.

    Attributes:
        dtype: Its type, as the format spells it (`F16`).
        shape: Its shape.
        begin: Where its bytes begin, counted from the start of the data.
        end: Where its bytes end.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True)
class Header:
    """The header of a file.

    Attributes:
        path: The file.
        tensors: Tensors by name, in the order of their bytes.
        metadata: Texts by name.
        start: Where in the file the data begin.
        size: Size of the file in bytes.
    """

    path: Path
    tensors: Mapping[str, Entry]
    metadata: Mapping[str, str]
    start: int
    size: int


def itemsize(dtype: str) -> int:
    """Returns the bytes of a value; 1 for types of less than a byte."""
    return max(1, _BITS[dtype] // 8)


def read_header(path: Path) -> Header:
    """Reads and checks the header of a file. Raises InputError, naming the tensor, for anything inconsistent."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        first = file.read(_LENGTH_BYTES)
        if len(first) < _LENGTH_BYTES:
            raise _broken(path, f"expected at least {_LENGTH_BYTES} bytes, found {len(first)}")
        (length,) = struct.unpack("<Q", first)
        if length > min(size - _LENGTH_BYTES, _MAX_HEADER_BYTES):
            raise _broken(path, f"a header of {length:,} bytes in a file of {size:,}")
        text = file.read(length)
    parsed = _parse(path, text)
    metadata = parsed.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _broken(path, f"field {_METADATA!r}: expected texts by name")
    if len(parsed) > _MAX_TENSORS:
        raise _broken(path, f"header: expected at most {_MAX_TENSORS:,} tensors, found {len(parsed):,}")
    start = _LENGTH_BYTES + length
    entries = {name: _entry(path, name, value) for name, value in parsed.items()}
    tensors = dict(sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)))
    _check_cover(path, tensors, size - start)
    return Header(path, tensors, metadata, start, size)


def encode_header(tensors: Mapping[str, Entry], metadata: Mapping[str, str]) -> bytes:
    """Returns the bytes before the data, padded so that the data begin at a multiple of 8."""
    value: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    for name, entry in tensors.items():
        value[name] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": (entry.begin, entry.end)}
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def arranged(tensors: Iterable[tuple[str, str, tuple[int, ...], int]]) -> dict[str, Entry]:
    """Returns entries without gaps.

    Args:
        tensors: Name, dtype, shape and number of bytes of each tensor.

    Returns:
        Entries by name. Wide types come first, as readers want each tensor at a multiple of its value's size; otherwise
        the order is the given one.
    """
    entries: dict[str, Entry] = {}
    position = 0
    for name, dtype, shape, size in sorted(tensors, key=lambda tensor: -itemsize(tensor[1])):
        entries[name] = Entry(dtype, shape, position, position + size)
        position += size
    return entries


def _broken(path: Path, problem: str) -> InputError:
    return InputError(f"{path}: not a readable safetensors file: {problem}")


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    try:
        value = parse(text.decode("utf-8"))
    except (NotJson, UnicodeDecodeError) as error:
        raise _broken(path, f"header: {error}") from None
    if not isinstance(value, dict):
        raise _broken(path, f"header: expected a JSON object, found {type(value).__name__}")
    return value


def _entry(path: Path, name: str, value: Any) -> Entry:
    def wrong(field: str, expected: str, found: Any) -> InputError:
        return _broken(path, f"tensor {name[:200]!r}: field {field!r}: expected {expected}, found {str(found)[:100]!r}")

    if not is_tensor_name(name):
        raise _broken(path, f"tensor {name[:200]!r}: expected a printable name of at most 1,000 characters")
    if not isinstance(value, dict):
        raise _broken(path, f"tensor {name[:200]!r}: expected an object, found {type(value).__name__}")
    dtype: Any = value.get("dtype")
    shape: Any = value.get("shape")
    offsets: Any = value.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise wrong("dtype", f"one of {', '.join(sorted(_BITS))}", dtype)
    if not _counts(shape) or len(shape) > _MAX_RANK:
        raise wrong("shape", f"a list of at most {_MAX_RANK} sizes", shape)
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise wrong("data_offsets", "[begin, end]", offsets)
    if math.prod(shape) * _BITS[dtype] != 8 * (offsets[1] - offsets[0]):
        raise wrong("data_offsets", f"as many bytes as {dtype} of shape {shape} takes", offsets)
    # A tensor without values may have sizes whose product is too large for any integer type.
    if math.prod(filter(None, shape)) * _BITS[dtype] >= 1 << 63:
        raise wrong("shape", "sizes that a tensor can have", shape)
    return Entry(dtype, tuple(shape), *offsets)


def _counts(value: Any) -> bool:
    # `type`, not `isinstance`: true and false are ints to Python.
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def _check_cover(path: Path, tensors: Mapping[str, Entry], size: int) -> None:
    """Checks that the tensors follow each other, without gap or overlap, to the end of the file."""
    position, before = 0, ""
    for name, entry in tensors.items():
        if entry.begin != position:
            what = "overlaps" if entry.begin < position else "leaves a gap after"
            raise _broken(path, f"tensor {name[:200]!r} {what} {before[:200] or 'the header'!r}")
        position, before = entry.end, name
    if position != size:
        raise _broken(path, f"expected {position:,} bytes of data by its header, found {size:,}")
