"""Parses the bytes of an `.onnx_adapter` file. Each offset is checked before it is followed.

The format is a FlatBuffer (schema: onnxruntime/lora/adapter_format/adapter_schema.fbs), little-endian:
    Adapter: format_version, adapter_version, model_version, parameters; Parameter: name, dims, data_type, raw_data.

ONNX Runtime has a reader too. But up to version 1.24, one changed byte can make it read outside of the file and crash
the process. It also maps the file, which may be changed later. This parser checks the bytes, which belong to the
caller.
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

# Data types by their numbers in ONNX: those that have a fixed size and a name in numpy.
_DTYPES: Mapping[int, DType] = {
    1: DType.FLOAT32, 2: DType.UINT8, 3: DType.INT8, 4: DType.UINT16, 5: DType.INT16, 6: DType.INT32, 7: DType.INT64,
    10: DType.FLOAT16, 11: DType.FLOAT64, 12: DType.UINT32, 13: DType.UINT64, 16: DType.BFLOAT16,
}  # fmt: skip


class BrokenAdapter(ValueError):
    """The bytes of a file are not a valid adapter. The message says why."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor is in the bytes of a file.

    Attributes:
        dtype: Its dtype.
        shape: Its shape.
        start: Offset of its first byte from the beginning of the file.
    """

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    start: int

    def tensor(self, data: bytes) -> np.ndarray:
        """Returns the tensor as a read-only view of `data`, or as a copy if it is not aligned there."""
        tensor: np.ndarray = np.ndarray(self.shape, self.dtype, data, self.start)
        if not tensor.flags.aligned:
            tensor = tensor.copy()
            tensor.setflags(write=False)
        return tensor


@dataclass(frozen=True)
class AdapterContent:
    """The content of an adapter file.

    Attributes:
        adapter_version: A number chosen by the writer of the file.
        model_version: A number chosen by the writer of the file; see `adapter_file.fingerprint`.
        places: Where each tensor is in the file, by name.
    """

    adapter_version: int
    model_version: int
    places: Mapping[str, StoredTensor]

    def tensors(self, data: bytes) -> dict[str, np.ndarray]:
        """Returns the tensors by name.

        Args:
            data: The bytes that were parsed, or equal bytes.
        """
        return {name: place.tensor(data) for name, place in self.places.items()}


def parse_adapter(data: bytes) -> AdapterContent:
    """Parses the bytes of an adapter file.

    Raises:
        BrokenAdapter: The bytes are not a valid adapter.
    """
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
    # A thousand adapters of one graph have the same names, so the strings are shared.
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
    # The sizes of a tensor without values may have a product (without the zeros) that does not fit in 64 bits.
    if math.prod(filter(None, dims)) * dtype.itemsize >= 1 << 63:
        raise BrokenAdapter(f"tensor {name!r}: no tensor can have the sizes {list(dims)}")
    return name, StoredTensor(dtype, dims, start)


@dataclass(frozen=True)
class _Buffer:
    """Bytes, with a check that offsets are not negative. `struct` counts negative offsets from the end."""

    data: bytes

    def read(self, code: str, at: int) -> int:
        if at < 0:
            raise BrokenAdapter("broken structure: an offset points before the file")
        return int(struct.unpack_from(code, self.data, at)[0])

    def offset(self, at: int) -> int:
        """Returns the place that the unsigned offset stored at `at` points to. It counts from `at`."""
        return at + self.read("<I", at)

    def offsets(self, start: int, count: int) -> Iterator[int]:
        return (self.offset(start + 4 * index) for index in range(count))


@dataclass(frozen=True)
class _Table:
    """A table of a FlatBuffer.

    It begins with the signed distance back to its vtable, which lists where each field is.

    Attributes:
        buffer: The bytes of the file.
        at: Offset of the table.
    """

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
        """Returns the offset and the number of items of a vector.

        Raises:
            BrokenAdapter: The vector is missing, or reaches beyond the end of the file.
        """
        if (place := self._field(index)) is None:
            raise BrokenAdapter("broken structure: a field is missing")
        place = self.buffer.offset(place)
        count = self.buffer.read("<I", place)
        if place + 4 + count * itemsize > len(self.buffer.data):
            raise BrokenAdapter("broken structure: a field reaches beyond the end of the file")
        return place + 4, count
