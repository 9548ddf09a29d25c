"""Reading the bytes of an `.onnx_adapter` file, each offset checked before it is followed.

The format is a FlatBuffer (schema: onnxruntime/lora/adapter_format/adapter_schema.fbs), little-endian:
    Adapter: format_version, adapter_version, model_version, parameters; Parameter: name, dims, data_type, raw_data.
ONNX Runtime has a reader of its own, but up to 1.24 one changed byte can make it read outside the file and crash the
process, and it maps the file, which somebody may change later. What is read here is checked, and owned by the caller.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from adapter_export.dtypes import DType

_IDENTIFIER = b"TORT"
_FORMAT_VERSION = 1
# Numbers of the fields of the two tables.
_FORMAT, _ADAPTER, _MODEL, _PARAMETERS = range(4)
_NAME, _DIMS, _TYPE, _DATA = range(4)
_VTABLE_HEADER_BYTES = 4
_MAX_RANK = 8

# By ONNX's numbers: the data types that have one fixed size and a name in numpy.
_DTYPES: Mapping[int, DType] = {
    1: DType.FLOAT32, 2: DType.UINT8, 3: DType.INT8, 4: DType.UINT16, 5: DType.INT16, 6: DType.INT32, 7: DType.INT64,
    10: DType.FLOAT16, 11: DType.FLOAT64, 12: DType.UINT32, 13: DType.UINT64, 16: DType.BFLOAT16,
}  # fmt: skip


class BrokenAdapter(ValueError):
    """What is wrong with the bytes of a file."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies among a file's bytes: `start` counts from their beginning."""

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    start: int

    def tensor(self, data: bytes) -> np.ndarray:
        """The tensor, read-only: a view of `data`, or a copy where it lies unaligned there."""
        tensor: np.ndarray = np.ndarray(self.shape, self.dtype, data, self.start)
        if not tensor.flags.aligned:
            tensor = tensor.copy()
            tensor.setflags(write=False)
        return tensor


@dataclass(frozen=True)
class AdapterContent:
    """What a file holds. adapter_version, model_version: set freely by its writer. places: of its tensors, by name."""

    adapter_version: int
    model_version: int
    places: Mapping[str, StoredTensor]

    def tensors(self, data: bytes) -> dict[str, np.ndarray]:
        """The tensors, from the bytes that were parsed, or from the same bytes read again."""
        return {name: place.tensor(data) for name, place in self.places.items()}


def parse_adapter(data: bytes) -> AdapterContent:
    """The content of a file's bytes; raises BrokenAdapter saying what is wrong with them."""
    if data[4:8] != _IDENTIFIER:
        raise BrokenAdapter("no adapter file: its mark TORT is missing")
    try:
        return _parse(_Buffer(data))
    except (struct.error, UnicodeDecodeError) as error:
        raise BrokenAdapter(f"broken structure: {error}") from None


def _parse(buffer: _Buffer) -> AdapterContent:
    root = _Table(buffer, buffer.offset(0))
    if (version := root.int32(_FORMAT)) != _FORMAT_VERSION:
        raise BrokenAdapter(f"format version {version}, expected {_FORMAT_VERSION}")
    places: dict[str, StoredTensor] = {}
    for at in buffer.offsets(*root.vector(_PARAMETERS, 4)):
        name, place = _parameter(_Table(buffer, at))
        if name in places:
            raise BrokenAdapter(f"tensor {name!r} is there twice")
        places[name] = place
    return AdapterContent(root.int32(_ADAPTER), root.int32(_MODEL), places)


def _parameter(table: _Table) -> tuple[str, StoredTensor]:
    start, length = table.vector(_NAME, 1)
    # A thousand adapters of one graph have the same names: they share them.
    name = sys.intern(table.buffer.data[start : start + length].decode())
    if not name:
        raise BrokenAdapter("a tensor without a name")
    start, rank = table.vector(_DIMS, 8)
    if rank > _MAX_RANK:
        raise BrokenAdapter(f"tensor {name!r}: {rank} dims, expected at most {_MAX_RANK}")
    dims = struct.unpack_from(f"<{rank}q", table.buffer.data, start)
    if (code := table.int32(_TYPE)) not in _DTYPES:
        raise BrokenAdapter(f"tensor {name!r}: data type {code} is not supported")
    dtype = _DTYPES[code].numpy
    start, size = table.vector(_DATA, 1)
    if any(dim < 0 for dim in dims) or math.prod(dims) * dtype.itemsize != size:
        raise BrokenAdapter(f"tensor {name!r}: {size} bytes do not hold {list(dims)} of {dtype}")
    # A tensor without values may have sizes whose product no number can hold.
    if math.prod(filter(None, dims)) * dtype.itemsize >= 1 << 63:
        raise BrokenAdapter(f"tensor {name!r}: no tensor can have the sizes {list(dims)}")
    return name, StoredTensor(dtype, dims, start)


@dataclass(frozen=True)
class _Buffer:
    """Bytes that are read only where they are: struct takes a negative offset for one from the end."""

    data: bytes

    def read(self, code: str, at: int) -> int:
        if at < 0:
            raise BrokenAdapter("broken structure: an offset points before the file")
        return int(struct.unpack_from(code, self.data, at)[0])

    def offset(self, at: int) -> int:
        """Follow the unsigned offset stored at `at`, which counts from there."""
        return at + self.read("<I", at)

    def offsets(self, start: int, count: int) -> Iterator[int]:
        return (self.offset(start + 4 * index) for index in range(count))


@dataclass(frozen=True)
class _Table:
    """A FlatBuffers table at `at`: a signed distance back to its vtable, which lists where each field is."""

    buffer: _Buffer
    at: int

    def _field(self, index: int) -> int | None:
        vtable = self.at - self.buffer.read("<i", self.at)
        entry = _VTABLE_HEADER_BYTES + 2 * index
        if entry + 2 > self.buffer.read("<H", vtable):
            return None
        distance = self.buffer.read("<H", vtable + entry)
        return self.at + distance if distance else None

    def int32(self, index: int) -> int:
        place = self._field(index)
        return 0 if place is None else self.buffer.read("<i", place)

    def vector(self, index: int, itemsize: int) -> tuple[int, int]:
        """Start and number of items of a vector, all of them inside the file; it must be there."""
        if (place := self._field(index)) is None:
            raise BrokenAdapter("broken structure: a field is missing")
        place = self.buffer.offset(place)
        count = self.buffer.read("<I", place)
        if place + 4 + count * itemsize > len(self.buffer.data):
            raise BrokenAdapter("broken structure: a field reaches beyond the end of the file")
        return place + 4, count
