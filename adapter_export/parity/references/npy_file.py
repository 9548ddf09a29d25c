"""Reads `.npy` files, the arrays in a `.npz` archive, strictly.

Numpy's own reader parses the header as Python code, and raises whatever its tokenizer, its parser and its dtypes raise.
This reader accepts exactly what numpy writes: a magic string, a version, the length of the header, the header
`{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }`, and the values. `numpy.lib.format` describes the format.
"""

from __future__ import annotations

import math
import re

import numpy as np

_MAGIC = b"\x93NUMPY"
# By version: the number of bytes of the field with the header's length.
_LENGTHS = {b"\x01\x00": 2, b"\x02\x00": 4, b"\x03\x00": 4}
_HEADER = re.compile(
    rb"\{'descr': '(?P<dtype>[<>|](?:b1|[iu][1248]|f[248]|U[1-9][0-9]{0,8}))', "
    rb"'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>(?:[0-9]{1,18}, ?){0,64}(?:[0-9]{1,18})?)\), \} *\n?"
)
# The limit of numpy.
_MAX_RANK = 64
# The last code point of Unicode.
_LAST_CHARACTER = 0x10FFFF


class NotArray(Exception):
    """The bytes are not an array; the message says why, in one line."""


def parse_npy(data: bytes) -> np.ndarray:
    """Reads an array of numbers, booleans or strings.

    Args:
        data: Contents of a `.npy` file.

    Returns:
        A writable array.

    Raises:
        NotArray: The bytes are something else.
    """
    start = len(_MAGIC) + 2
    if not data.startswith(_MAGIC) or (width := _LENGTHS.get(data[len(_MAGIC) : start])) is None:
        raise NotArray("no array of numpy's")
    begin = start + width + int.from_bytes(data[start : start + width], "little")
    if (header := _HEADER.fullmatch(data[start + width : begin])) is None or begin > len(data):
        raise NotArray("a header that no array of numbers has")
    dtype = np.dtype(header["dtype"].decode())
    shape = tuple(int(size) for size in header["shape"].decode().split(",") if size.strip())
    if len(shape) > _MAX_RANK or math.prod(filter(None, shape)) * dtype.itemsize >= 1 << 63:
        raise NotArray(f"a shape that no array can have: {shape!r:.80}")
    if math.prod(shape) * dtype.itemsize != len(data) - begin:
        raise NotArray(f"{len(data) - begin} bytes do not hold {shape!r:.80} of {dtype.str}")
    # A copy, because PyTorch does not accept arrays that are read-only.
    values: np.ndarray = np.frombuffer(data, dtype, offset=begin).copy()
    if dtype.kind == "U" and values.size and values.view(f"{dtype.str[0]}u4").max() > _LAST_CHARACTER:
        raise NotArray("a text with what is no character")
    return values.reshape(shape, order="F" if header["fortran"] == b"True" else "C")
