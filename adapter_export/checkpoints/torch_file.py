"""PyTorch's .bin files without PyTorch: a pickle of which only tensors are taken, and the bytes that belong to it.

A pickle is a program. Each name in this one is looked up in a short list: ordered dictionaries, storages of numbers,
and the functions that make a tensor or a parameter of one. Anything else is an error, and nothing is ever imported.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export.checkpoints.safetensors_file import MAX_BYTES
from adapter_export.reading.files import read_bytes

# Names of PyTorch's storages -> numpy's dtypes; bfloat16 is `ml_dtypes`' own.
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
# What files before 2020 begin with: a number, the version of their protocol, and facts about the machine.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
# What an archive begins with.
_ARCHIVE = b"PK"
# What Python's reader of archives raises for damaged, compressed and encrypted ones.
_ARCHIVE_ERRORS = (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, RuntimeError, ValueError, zlib.error)
# As numpy, and a limit above all that a file could hold.
_MAX_RANK, _MAX_VALUES = 64, 1 << 48


class NotTensors(ValueError):
    """The file holds something else than tensors, or is damaged."""


@dataclass
class _Storage:
    """Numbers of one dtype."""

    dtype: str
    count: int
    data: bytes


# Storages by their keys in the file.
_Storages = dict[str, _Storage]


@dataclass(frozen=True)
class _View:
    """A tensor: a part of the storage of that key."""

    storage: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _Reference:
    """What a pickle says of a storage, unchecked."""

    said: Any


@dataclass(frozen=True)
class _Call:
    """A function that a pickle calls, with its arguments, unchecked."""

    function: str
    arguments: tuple[Any, ...]


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a file as `torch.save` writes a mapping of names to tensors, in their dtypes.

    Raises NotTensors, saying what was found; InputError for a file that cannot be read, or is too large.
    """
    data = read_bytes(path, MAX_BYTES)
    content = io.BytesIO(data)
    # An archive may stand behind anything; `torch.save` writes nothing before it.
    state, storages = _read_archive(content) if data.startswith(_ARCHIVE) else _read_older(content)
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise NotTensors("expected a mapping of names to tensors")
    return {name: _array(name, _view(value), storages) for name, value in state.items()}


def _read_archive(content: io.BytesIO) -> tuple[Any, _Storages]:
    """An uncompressed archive: `<name>/data.pkl`, and a file for each storage."""
    try:
        with zipfile.ZipFile(content) as archive:
            items = archive.infolist()
            # What is compressed could unpack to any size, and so could files that share their bytes.
            if (unpacked := sum(item.file_size for item in items)) > len(content.getbuffer()):
                raise NotTensors(f"expected uncompressed contents, found {unpacked} bytes of them")
            files = {item.filename: archive.read(item) for item in items}
    except _ARCHIVE_ERRORS as error:
        raise NotTensors(f"not readable as tensors only: {_one_line(error)}") from None
    root = next((name.removesuffix("data.pkl") for name in files if name.endswith("data.pkl")), None)
    if root is None:
        raise NotTensors("expected an archive with data.pkl, found none")
    if files.get(f"{root}byteorder", b"little") != b"little":
        raise NotTensors("expected numbers in little-endian order")
    references: list[_Reference] = []
    state = _unpickled(io.BytesIO(files[f"{root}data.pkl"]), references)
    storages: _Storages = {}
    for kind, key, count in map(_storage, references):
        if (data := files.get(f"{root}data/{key}")) is None:
            raise NotTensors(f"expected the numbers of a storage {key!r:.80}, found none")
        storages.setdefault(key, _Storage(kind, count, data))
    return state, storages


def _read_older(content: io.BytesIO) -> tuple[Any, _Storages]:
    """A row of pickles, the numbers behind them."""
    if _unpickled(content) != _MAGIC or _unpickled(content) != _PROTOCOL:
        raise NotTensors("not readable as tensors only: no file of PyTorch's")
    facts = _unpickled(content)
    if not isinstance(facts, dict) or facts.get("little_endian") is not True:
        raise NotTensors("expected numbers in little-endian order")
    references: list[_Reference] = []
    state = _unpickled(content, references)
    known = {key: (kind, count) for kind, key, count in map(_storage, references)}
    keys = _unpickled(content)
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in known for key in keys):
        raise NotTensors("expected the keys of the storages, found others")
    storages: _Storages = {}
    for key in keys:
        kind, count = known[key]
        if (size := int.from_bytes(content.read(8), "little")) != count or size > len(content.getbuffer()):
            raise NotTensors(f"storage {key!r:.80}: expected {count} numbers, found {size}")
        storages[key] = _Storage(kind, count, content.read(size * _dtype(kind).itemsize))
    return state, storages


def _unpickled(content: io.BytesIO, references: list[_Reference] | None = None) -> Any:
    """The next pickle, of markers in the place of storages and calls; `references` gets those of storages."""
    try:
        return _Markers(content, [] if references is None else references).load()
    except Exception as error:  # a damaged pickle can fail in any way, and the markers cannot
        raise NotTensors(f"not readable as tensors only: {_one_line(error)}") from None


class _Names(dict[Any, Any]):
    """An ordered dictionary, whose attributes (`_metadata`, of PyTorch's) are dropped: they could hide its methods."""

    def __setstate__(self, state: object) -> None:
        pass


class _Markers(pickle.Unpickler):
    """Reads what is to be checked: numbers, texts, containers, and markers. Nothing of ours is called but to make such
    a marker, so that whatever is raised meanwhile is the pickle's fault."""

    def __init__(self, file: io.BytesIO, references: list[_Reference]) -> None:
        super().__init__(file, encoding="utf-8")
        self._references = references

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case "collections", "OrderedDict":
                return _Names
            case "torch._utils", "_rebuild_tensor_v2" | "_rebuild_parameter":
                return lambda *arguments: _Call(name, arguments)
            case "torch", storage if storage in _STORAGES:
                return _STORAGES[storage]
        raise pickle.UnpicklingError(f"found {module}.{name}, which is no tensor")

    def persistent_load(self, reference: Any) -> _Reference:
        self._references.append(marker := _Reference(reference))
        return marker


def _storage(reference: _Reference) -> tuple[str, str, int]:
    """Kind, key and number of values of a storage."""
    match reference.said:
        case ("storage", str(kind), str(key), _, int(count), *view) if not any(view) and _is_size(count):
            if kind in _STORAGES.values():
                return kind, key, count
    raise NotTensors("not readable as tensors only: found a reference that is no storage")


def _view(value: Any) -> _View:
    match value:
        case _Call("_rebuild_parameter", (data, *_)):
            # A parameter is a tensor; one of a parameter would be no end.
            if isinstance(data, _Call) and data.function != value.function:
                return _view(data)
        case _Call("_rebuild_tensor_v2", (_Reference() as reference, offset, tuple(shape), tuple(strides), *_)):
            if len(shape) != len(strides) or not all(map(_is_size, (offset, *shape, *strides))):
                raise NotTensors("expected sizes of a tensor, found others")
            return _View(_storage(reference)[1], offset, shape, strides)
    raise NotTensors("expected a mapping of names to tensors")


def _array(name: str, view: _View, storages: _Storages) -> np.ndarray:
    if (storage := storages.get(view.storage)) is None:
        raise NotTensors(f"tensor {name!r}: expected the numbers of its storage, found none")
    dtype = _dtype(storage.dtype)
    if len(storage.data) != storage.count * dtype.itemsize:
        raise NotTensors(
            f"tensor {name!r}: expected {storage.count} numbers of {dtype}, found {len(storage.data)} bytes"
        )
    count = math.prod(view.shape)
    if len(view.shape) > _MAX_RANK or math.prod(filter(None, view.shape)) > _MAX_VALUES:
        raise NotTensors(f"tensor {name!r}: expected sizes that a tensor can have, found {view.shape!r:.80}")
    if not count:
        return np.empty(view.shape, dtype)
    # Strides can make a few bytes look like any number of values.
    if count > storage.count:
        raise NotTensors(f"tensor {name!r}: expected values of its own, found {view.shape} repeated")
    last = view.offset + sum((size - 1) * step for size, step in zip(view.shape, view.strides, strict=True))
    if last >= storage.count:
        raise NotTensors(f"tensor {name!r}: expected values of its storage, found some beyond its {storage.count}")
    values = np.frombuffer(storage.data, dtype)[view.offset :]
    # The step along an axis of one value is never taken, and may be any number.
    steps = [step * dtype.itemsize if size > 1 else 0 for size, step in zip(view.shape, view.strides, strict=True)]
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(values, view.shape, steps)).reshape(view.shape)


def _dtype(name: str) -> np.dtype[Any]:
    import ml_dtypes

    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
    return dtype


def _is_size(value: Any) -> bool:
    # Larger ones are no sizes, and Python refuses to print them.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
