"""Reads PyTorch's .bin files without PyTorch: the tensors of a pickle, and the bytes that belong to them.

A pickle is a program. It is read here as data (see `pickles`), and each name in it is looked up in a short list:
storages of numbers, and the functions that make a tensor or a parameter of one. Anything else is an error.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export.checkpoints.pickles import BadPickle, Call, Name, PersistentId, read_pickle
from adapter_export.checkpoints.safetensors_file import MAX_BYTES
from adapter_export.dtypes import numpy_dtype
from adapter_export.naming import is_tensor_name
from adapter_export.reading.archives import BadArchive, read_archive
from adapter_export.reading.files import read_bytes

# Names of PyTorch's storages -> numpy's dtypes; bfloat16 is from `ml_dtypes`.
_STORAGES: Mapping[str, str] = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
# The beginning of files written before 2020: a number, the version of their protocol, and facts about the machine.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
# The beginning of an archive.
_ARCHIVE = b"PK"
_UNREADABLE = "not readable as tensors only"
_FUNCTIONS = (("torch._utils", "_rebuild_parameter"), ("torch._utils", "_rebuild_tensor_v2"))
# The same number of axes as in numpy, and a size above any that a file could hold.
_MAX_RANK, _MAX_VALUES = 64, 1 << 48


class NotTensors(ValueError):
    """The file holds something else than tensors, or is damaged."""


@dataclass(frozen=True)
class _View:
    """A tensor, as a view of a storage.

    Attributes:
        dtype: Type of the storage's values.
        key: Key of the storage.
        count: Number of values in the storage.
        offset: First value of the tensor.
        shape: Shape of the tensor.
        strides: Strides in values.
    """

    dtype: str
    key: str
    count: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """Reads all tensors of a file in which `torch.save` wrote a mapping of names to tensors.

    Returns:
        Tensors by name, in their dtypes.

    Raises:
        NotTensors: The file holds something else; says what was found.
        InputError: The file cannot be read, or is too large.
    """
    data = read_bytes(path, MAX_BYTES)
    # Zip archives may begin anywhere in a file; `torch.save` writes nothing before them.
    views, numbers = _read_newer(data) if data.startswith(_ARCHIVE) else _read_older(io.BytesIO(data))
    return {name: _array(name, view, numbers) for name, view in views.items()}


def _read_newer(data: bytes) -> tuple[dict[str, _View], dict[str, bytes]]:
    """Reads an uncompressed archive: `<name>/data.pkl`, and a file for each storage."""
    try:
        files = read_archive(io.BytesIO(data), len(data))
    except BadArchive as error:
        raise NotTensors(f"{_UNREADABLE}: {error}") from None
    root = next((name.removesuffix("data.pkl") for name in files if name.endswith("data.pkl")), None)
    if root is None:
        raise NotTensors(f"{_UNREADABLE}: an archive without data.pkl")
    if files.get(f"{root}byteorder", b"little") != b"little":
        raise NotTensors("expected numbers in little-endian order")
    views = _views(_unpickled(io.BytesIO(files[f"{root}data.pkl"])))
    return views, {name.removeprefix(f"{root}data/"): content for name, content in files.items()}


def _read_older(content: io.BytesIO) -> tuple[dict[str, _View], dict[str, bytes]]:
    """Reads a sequence of pickles with the numbers behind them."""
    if _unpickled(content) != _MAGIC or _unpickled(content) != _PROTOCOL:
        raise NotTensors(f"{_UNREADABLE}: no file of PyTorch's")
    facts = _unpickled(content)
    if not isinstance(facts, dict) or facts.get("little_endian") is not True:
        raise NotTensors("expected numbers in little-endian order")
    views = _views(_unpickled(content))
    known = {view.key: view for view in views.values()}
    keys = _unpickled(content)
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in known for key in keys):
        raise NotTensors("expected the keys of the tensors' numbers, found others")
    numbers: dict[str, bytes] = {}
    for key in keys:
        size, view = int.from_bytes(content.read(8), "little"), known[key]
        if size != view.count or size > len(content.getbuffer()):
            raise NotTensors(f"storage {key!r:.80}: expected {view.count} numbers, found {size}")
        numbers[key] = content.read(size * numpy_dtype(view.dtype).itemsize)
    return views, numbers


def _unpickled(content: io.BytesIO) -> Any:
    try:
        return read_pickle(content)
    except BadPickle as error:
        raise NotTensors(f"{_UNREADABLE}: {error}") from None


def _views(state: Any) -> dict[str, _View]:
    """Returns the tensors of a mapping, as the pickle describes them."""
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise NotTensors("expected a mapping of names to tensors")
    if wrong := [name for name in state if not is_tensor_name(name)]:
        raise NotTensors(f"tensor {wrong[0][:200]!r}: expected a printable name of at most 1,000 characters")
    return {name: _view(value) for name, value in state.items()}


def _view(value: Any) -> _View:
    match value:
        case Call(Name("torch._utils", "_rebuild_parameter"), (Call() as data, *_)) if data.function != value.function:
            return _view(data)
        case Call(
            Name("torch._utils", "_rebuild_tensor_v2"),
            (PersistentId(said), offset, tuple(shape), tuple(strides), *_),
        ):
            if len(shape) != len(strides) or not all(map(_is_size, (offset, *shape, *strides))):
                raise NotTensors("expected sizes of a tensor, found others")
            return _View(*_storage(said), offset, shape, strides)
        case Call(Name(module, name)) if (module, name) not in _FUNCTIONS:
            raise NotTensors(f"{_UNREADABLE}: found {module}.{name}, which is no tensor"[:300])
    raise NotTensors("expected a mapping of names to tensors")


def _storage(said: Any) -> tuple[str, str, int]:
    """Returns dtype, key and number of values of a storage."""
    match said:
        case ("storage", Name("torch", name), str(key), _, int(count), *view) if name in _STORAGES and not any(view):
            if _is_size(count):
                return _STORAGES[name], key, count
    raise NotTensors(f"{_UNREADABLE}: found a reference that is no storage")


def _array(name: str, view: _View, numbers: Mapping[str, bytes]) -> np.ndarray:
    dtype, count = numpy_dtype(view.dtype), math.prod(view.shape)
    if (data := numbers.get(view.key)) is None or len(data) != view.count * dtype.itemsize:
        found = "none" if data is None else f"{len(data)} bytes"
        raise NotTensors(f"tensor {name!r}: expected {view.count} numbers of {dtype}, found {found}")
    if len(view.shape) > _MAX_RANK or math.prod(filter(None, view.shape)) > _MAX_VALUES:
        raise NotTensors(f"tensor {name!r}: expected sizes that a tensor can have, found {view.shape!r:.80}")
    if not count:
        return np.empty(view.shape, dtype)
    # With strides of zero, a few bytes could stand for any number of values.
    if count > view.count:
        raise NotTensors(f"tensor {name!r}: expected values of its own, found {view.shape} repeated")
    last = view.offset + sum((size - 1) * step for size, step in zip(view.shape, view.strides, strict=True))
    if last >= view.count:
        raise NotTensors(f"tensor {name!r}: expected values of its storage, found some beyond its {view.count}")
    values = np.frombuffer(data, dtype)[view.offset :]
    # The stride of an axis of one value is never used, and may be any number.
    steps = [step * dtype.itemsize if size > 1 else 0 for size, step in zip(view.shape, view.strides, strict=True)]
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(values, view.shape, steps)).reshape(view.shape)


def _is_size(value: Any) -> bool:
    # Larger numbers are no sizes, and Python refuses to print them.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62
