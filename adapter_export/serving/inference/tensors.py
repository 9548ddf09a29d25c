"""Tensors of the Open Inference Protocol, in JSON and in binary form.

Source: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol and its extension for binary
tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from adapter_export.dtypes import DType
from adapter_export.reading.shown import shortened
from adapter_export.serving.problems import Problem

# The protocol's name of texts and other bytes.
BYTES = "BYTES"
# Kinds of numpy's dtypes that JSON values of each kind of tensor may have.
_KINDS = {"i": "iu", "u": "iu", "f": "iuf", "b": "b"}


def datatype_of(dtype: DType) -> str:
    """Returns the protocol's name of a data type."""
    return dtype.upper().replace("BFLOAT", "BF").replace("FLOAT", "FP")


def from_json(what: str, datatype: str, shape: Sequence[int], data: Any, dtype: DType) -> np.ndarray:
    """Returns the array of a tensor in JSON.

    Args:
        what: Name of the tensor in messages.
        datatype: Its data type as the request states it.
        shape: Its shape as the request states it.
        data: Its values, as a flat or a nested list.
        dtype: The data type that the graph takes.

    Raises:
        Problem: The values are not those of such a tensor.
    """
    _check_datatype(what, datatype, datatype_of(dtype))
    wanted = dtype.numpy
    try:
        found = np.asarray(data)
    except ValueError:  # lists of different lengths
        found = np.asarray(None)
    if found.size and found.dtype.kind not in _KINDS.get(wanted.kind, "iuf"):
        raise Problem(400, f"{what}: expected a list of {datatype} values, found {shortened(data)}", param=what)
    _check_size(what, shape, found.size)
    if wanted.kind in "iu" and found.size and (found.astype(wanted) != found).any():
        raise Problem(400, f"{what}: expected {datatype} values, found one out of their range", param=what)
    return found.reshape(tuple(shape)).astype(wanted)


def from_bytes(what: str, datatype: str, shape: Sequence[int], data: memoryview, dtype: DType) -> np.ndarray:
    """Returns the array of a tensor in binary form, little-endian and row by row.

    Args:
        what: Name of the tensor in messages.
        datatype: Its data type as the request states it.
        shape: Its shape as the request states it.
        data: Its bytes.
        dtype: The data type that the graph takes.

    Raises:
        Problem: The bytes are not those of such a tensor.
    """
    _check_datatype(what, datatype, datatype_of(dtype))
    wanted = dtype.numpy
    _check_size(what, shape, len(data) / wanted.itemsize)
    if wanted.kind == "b" and any(value > 1 for value in data):
        raise Problem(400, f"{what}: expected bytes 0 and 1 for BOOL", param=what)
    return np.frombuffer(data, wanted).reshape(tuple(shape))


def texts_from_json(what: str, datatype: str, shape: Sequence[int], data: Any) -> list[str]:
    """Returns the texts of a tensor of type BYTES in JSON.

    Raises:
        Problem: The values are not texts.
    """
    _check_datatype(what, datatype, BYTES)
    found = _flat(data)
    if not all(isinstance(text, str) for text in found):
        raise Problem(400, f"{what}: expected a list of texts, found {shortened(data)}", param=what)
    _check_size(what, shape, len(found))
    return found


def texts_from_bytes(what: str, datatype: str, shape: Sequence[int], data: memoryview) -> list[str]:
    """Returns the texts of a tensor of type BYTES in binary form: each after its length, 4 bytes little-endian.

    Raises:
        Problem: The bytes are not those of texts in UTF-8.
    """
    _check_datatype(what, datatype, BYTES)
    texts: list[str] = []
    at = 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        if at + 4 + length > len(data):
            raise Problem(400, f"{what}: expected each text after its length, found one that is cut off", param=what)
        try:
            texts.append(str(data[at + 4 : at + 4 + length], "utf-8"))
        except UnicodeDecodeError:
            raise Problem(400, f"{what}: expected texts in UTF-8", param=what) from None
        at += 4 + length
    _check_size(what, shape, len(texts))
    return texts


def to_json(name: str, values: np.ndarray) -> list[Any]:
    """Returns values as a flat list.

    Raises:
        Problem: 500, a value is not a finite number, which JSON cannot hold.
    """
    wide = values.astype(np.float64) if values.dtype.kind not in "iub" else values
    if not np.isfinite(wide).all():
        raise Problem(500, f"output {name!r}: holds values that are not finite, which JSON cannot hold")
    found: list[Any] = wide.ravel().tolist()
    return found


def to_bytes(values: np.ndarray) -> bytes:
    """Returns the bytes of an array of numbers, or of texts as objects of type `bytes`."""
    if values.dtype == object:
        return b"".join(len(text).to_bytes(4, "little") + text for text in values.ravel().tolist())
    return np.ascontiguousarray(values).tobytes()


def _check_datatype(what: str, found: str, expected: str) -> None:
    if found != expected:
        raise Problem(400, f"{what}: expected datatype {expected}, found {shortened(found)}", param=what)


def _check_size(what: str, shape: Sequence[int], size: float) -> None:
    if math.prod(shape) != size:
        raise Problem(400, f"{what}: shape {list(shape)} does not hold the {size:g} values of its data", param=what)


def _flat(data: Any) -> list[Any]:
    found: list[Any] = []
    for item in data if isinstance(data, list) else [data]:
        found += _flat(item) if isinstance(item, list) else [item]
    return found
