"""Reading GGUF, the format of llama.cpp's models: metadata, and the three kinds of tensors in SmolLM2's file.

Of our own: the package `gguf` and transformers' reader on top of it take 25 seconds and five more packages for what
takes three seconds here, and lose the tokenizer's rule that every digit stands alone. The weights are the same bit for
bit. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_VERSION = 3
# Values that share a scale.
_BLOCK = 32
# By the format's number of each kind: w = q; w = scale * q + least, two q in a byte; w = scale * q.
_F32, _Q4_1, _Q8_0 = 0, 3, 8
_KINDS = {
    _F32: np.dtype("<f4"),
    _Q4_1: np.dtype([("scale", "<f2"), ("least", "<f2"), ("q", "u1", _BLOCK // 2)]),
    _Q8_0: np.dtype([("scale", "<f2"), ("q", "i1", _BLOCK)]),
}


class GgufError(RuntimeError):
    """A file that is not GGUF, or has what is not read here."""


class _Stored(NamedTuple):
    kind: int
    shape: tuple[int, ...]
    offset: int


class Gguf:
    """A file's contents. metadata: values by key. Tensors become float32 one at a time."""

    def __init__(self, contents: bytes, name: str) -> None:
        """name: of the file, for messages. Raises GgufError."""
        self._bytes = contents
        if contents[:4] != b"GGUF":
            raise GgufError(f"{name}: expected a GGUF file, found one that begins with {contents[:4]!r}")
        self._at = 4
        version, tensors, entries = self._unpack("IQQ")
        if version != _VERSION:
            raise GgufError(f"{name}: expected version {_VERSION}, found {version}")
        self.metadata: dict[str, Any] = {self._string(): self._value(self._unpack("I")[0]) for _ in range(entries)}
        self._stored = dict(self._tensor_info(name) for _ in range(tensors))
        alignment = self.metadata.get("general.alignment", 32)
        self._data = -(-self._at // alignment) * alignment

    def tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        """Every tensor, float32."""
        for name in self._stored:
            yield name, self.tensor(name)

    def tensor(self, name: str) -> np.ndarray:
        """float32 [rows, columns] or [size]."""
        kind, shape, offset = self._stored[name]
        dtype = _KINDS[kind]
        count = int(np.prod(shape)) // (1 if kind == _F32 else _BLOCK)
        blocks = np.frombuffer(self._bytes, dtype, count, self._data + offset)
        return dequantize(blocks).reshape(shape)

    def _tensor_info(self, file: str) -> tuple[str, _Stored]:
        name = self._string()
        (axes,) = self._unpack("I")
        # Written with the fastest axis first.
        shape = self._unpack(f"{axes}Q")[::-1]
        kind, offset = self._unpack("IQ")
        if kind not in _KINDS:
            raise GgufError(f"{file}: tensor {name}: expected F32, Q4_1 or Q8_0 (0, 3, 8), found kind {kind}")
        return name, _Stored(kind, shape, offset)

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            item, count = self._unpack("IQ")
            return [self._value(item) for _ in range(count)] if item not in _SCALARS else self._scalars(item, count)
        return self._unpack(_SCALARS[kind])[0]

    def _scalars(self, kind: int, count: int) -> list[Any]:
        return list(self._unpack(f"{count}{_SCALARS[kind]}"))

    def _string(self) -> str:
        (length,) = self._unpack("Q")
        start, self._at = self._at, self._at + length
        return self._bytes[start : self._at].decode()

    def _unpack(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{layout}", self._bytes, self._at)
        self._at += struct.calcsize(f"<{layout}")
        return values


def dequantize(blocks: np.ndarray) -> np.ndarray:
    """float32 values of F32 numbers [n], or of Q4_1 or Q8_0 blocks [n] -> [n * 32]."""
    if blocks.dtype == _KINDS[_F32]:
        return blocks.copy()
    scale = blocks["scale"].astype(np.float32)[:, None]
    if blocks.dtype == _KINDS[_Q8_0]:
        return (scale * blocks["q"]).ravel()
    # The first half of a block is in the lower halves of its bytes.
    q = np.concatenate([blocks["q"] & 15, blocks["q"] >> 4], axis=1)
    return (scale * q + blocks["least"].astype(np.float32)[:, None]).ravel()
