"""PyTorch's .bin files without PyTorch: a pickle of which only tensors are taken, and the bytes that belong to it.

A pickle is a program. Each name in this one is looked up in a short list: ordered dictionaries, storages of numbers,
and the functions that make a tensor or a parameter of one. Anything else is an error, and nothing is ever imported.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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


class NotTensors(ValueError):
    """The file holds something else than tensors, or is damaged."""


@dataclass
class _Storage:
    """Numbers of one dtype; data is there once the file has been read to its end."""

    dtype: str
    count: int
    data: bytes = b""


@dataclass
class _View:
    """A tensor: a part of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a file as `torch.save` writes a mapping of names to tensors, in their dtypes.

    Raises NotTensors, saying what was found; OSError where the file cannot be read.
    """
    try:
        state = _read_archive(path) if zipfile.is_zipfile(path) else _read_older(io.BytesIO(path.read_bytes()))
    except (NotTensors, OSError):
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise NotTensors(f"not readable as tensors only: {_one_line(error)}") from None
    if not isinstance(state, dict) or not all(isinstance(value, _View) for value in state.values()):
        raise NotTensors("expected a mapping of names to tensors")
    return {str(name): _array(str(name), view) for name, view in state.items()}


def _read_archive(path: Path) -> Any:
    """An uncompressed archive: `<name>/data.pkl`, and a file for each storage."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        # What is compressed could unpack to any size.
        unpacked = sum(item.file_size for item in archive.infolist())
        if unpacked > path.stat().st_size:
            raise ValueError(f"expected uncompressed contents, found {unpacked} bytes of them")
        root = next(name.removesuffix("data.pkl") for name in names if name.endswith("data.pkl"))
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("expected numbers in little-endian order")
        storages: dict[str, _Storage] = {}

        def load(kind: str, key: str, count: int) -> _Storage:
            if key not in storages:
                storages[key] = _Storage(kind, count, archive.read(f"{root}data/{key}"))
            return storages[key]

        return _Tensors(io.BytesIO(archive.read(f"{root}data.pkl")), load).load()


def _read_older(file: io.BytesIO) -> Any:
    """A row of pickles, the numbers behind them."""
    if _Tensors(file).load() != _MAGIC or _Tensors(file).load() != _PROTOCOL:
        raise ValueError("no file of PyTorch's")
    if _Tensors(file).load().get("little_endian") is not True:
        raise ValueError("expected numbers in little-endian order")
    storages: dict[str, _Storage] = {}
    state = _Tensors(file, lambda kind, key, count: storages.setdefault(key, _Storage(kind, count))).load()
    for key in _Tensors(file).load():
        storage, size = storages[key], int.from_bytes(file.read(8), "little")
        if size != storage.count:
            raise ValueError(f"expected {storage.count} numbers, found {size}")
        storage.data = file.read(size * _dtype(storage.dtype).itemsize)
    return state


class _Tensors(pickle.Unpickler):
    """Reads tensors and what holds them. load: a storage's dtype, key and number of values -> the storage."""

    def __init__(self, file: io.BytesIO, load: Callable[[str, str, int], _Storage] | None = None) -> None:
        super().__init__(file, encoding="utf-8")
        self._load = load

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case "collections", "OrderedDict":
                return OrderedDict
            case "torch._utils", "_rebuild_tensor_v2":
                return _view
            case "torch._utils", "_rebuild_parameter":
                return _parameter
            case "torch", storage if storage in _STORAGES:
                return _STORAGES[storage]
        raise pickle.UnpicklingError(f"found {module}.{name}, which is no tensor")

    def persistent_load(self, reference: Any) -> _Storage:
        if self._load is None or not isinstance(reference, tuple) or len(reference) < 5 or reference[0] != "storage":
            raise pickle.UnpicklingError(f"found {reference!r:.80}, which is no storage")
        _, kind, key, _, count, *view = reference
        if any(view) or not isinstance(kind, str) or not isinstance(key, str) or not _is_size(count):
            raise pickle.UnpicklingError(f"found {reference!r:.80}, which is no storage")
        return self._load(kind, key, count)


def _view(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _View:
    if not isinstance(storage, _Storage) or not all(isinstance(sizes, tuple) for sizes in (shape, strides)):
        raise pickle.UnpicklingError("expected a tensor of a storage")
    if len(shape) != len(strides) or not all(map(_is_size, (offset, *shape, *strides))):
        raise pickle.UnpicklingError(f"expected sizes, found offset {offset}, shape {shape}, strides {strides}")
    return _View(storage, offset, shape, strides)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _array(name: str, view: _View) -> np.ndarray:
    dtype, storage = _dtype(view.storage.dtype), view.storage
    if len(storage.data) != storage.count * dtype.itemsize:
        raise NotTensors(
            f"tensor {name!r}: expected {storage.count} numbers of {dtype}, found {len(storage.data)} bytes"
        )
    count = math.prod(view.shape)
    # Strides can make a few bytes look like any number of values.
    if count > storage.count:
        raise NotTensors(f"tensor {name!r}: expected values of its own, found {view.shape} repeated")
    last = view.offset + sum((size - 1) * step for size, step in zip(view.shape, view.strides, strict=True))
    if count and last >= storage.count:
        raise NotTensors(f"tensor {name!r}: expected values of its storage, found some beyond its {storage.count}")
    values = np.frombuffer(storage.data, dtype)[view.offset :]
    steps: Sequence[int] = [step * dtype.itemsize for step in view.strides]
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(values, view.shape, steps)).reshape(view.shape)


def _dtype(name: str) -> np.dtype[Any]:
    import ml_dtypes

    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
    return dtype


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
