"""The GGUF reader, on files written here byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from samples.gguf import Gguf, GgufError

_ALIGNMENT = 32


def test_metadata_of_every_kind_is_read() -> None:
    entries = {
        "a.number": (4, struct.pack("<I", 7)),
        "a.float": (6, struct.pack("<f", 0.5)),
        "a.flag": (7, struct.pack("<?", True)),
        "a.text": (8, string("héllo")),
        "some.numbers": (9, struct.pack("<IQ3i", 5, 3, -1, 2, 3)),
        "some.texts": (9, struct.pack("<IQ", 8, 2) + string("x") + string("")),
    }
    assert Gguf(gguf(entries, {}), "m.gguf").metadata == {
        "a.number": 7,
        "a.float": 0.5,
        "a.flag": True,
        "a.text": "héllo",
        "some.numbers": [-1, 2, 3],
        "some.texts": ["x", ""],
    }


def test_floats_come_as_they_are_with_the_slowest_axis_first() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    contents = gguf({}, {"w": (0, values.shape, values.tobytes()), "v": (0, (3,), values[1].tobytes())})
    found = dict(Gguf(contents, "m.gguf").tensors())
    np.testing.assert_array_equal(found["w"], values)
    np.testing.assert_array_equal(found["v"], values[1])


def test_a_block_of_4_bits_is_scale_times_q_plus_the_least_its_first_half_in_the_lower_bits() -> None:
    q = np.arange(32) % 16
    q[5], q[21] = 9, 2
    packed = (q[:16] | q[16:] << 4).astype(np.uint8)
    contents = gguf({}, {"w": (3, (1, 32), struct.pack("<2e", 0.25, -1.5) + packed.tobytes())})
    np.testing.assert_array_equal(Gguf(contents, "m.gguf").tensor("w"), 0.25 * q[None] - 1.5)


def test_a_block_of_8_bits_is_scale_times_q() -> None:
    q = np.arange(-32, 32, dtype=np.int8)
    blocks = struct.pack("<e", 0.5) + q[:32].tobytes() + struct.pack("<e", -2) + q[32:].tobytes()
    expected = np.concatenate([0.5 * q[:32], -2.0 * q[32:]]).reshape(1, 64)
    np.testing.assert_array_equal(Gguf(gguf({}, {"w": (8, (1, 64), blocks)}), "m.gguf").tensor("w"), expected)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"PK\3\4 and more", r"m.gguf: expected a GGUF file, found one that begins with b'PK"),
        (b"GGUF" + struct.pack("<IQQ", 2, 0, 0), "m.gguf: expected version 3, found 2"),
    ],
)
def test_another_file_is_refused(contents: bytes, message: str) -> None:
    with pytest.raises(GgufError, match=message):
        Gguf(contents, "m.gguf")


def test_a_tensor_of_another_kind_is_refused_by_name() -> None:
    with pytest.raises(GgufError, match=r"m.gguf: tensor w: expected F32, Q4_1 or Q8_0 .*, found kind 14"):
        Gguf(gguf({}, {"w": (14, (1, 256), b"")}), "m.gguf")


def gguf(entries: Mapping[str, tuple[int, bytes]], tensors: Mapping[str, tuple[int, tuple[int, ...], bytes]]) -> bytes:
    """A file with that metadata (kind, bytes) and those tensors (kind, shape, bytes)."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries))
    for key, (kind, value) in entries.items():
        head += string(key) + struct.pack("<I", kind) + value
    data = b""
    for name, (kind, shape, value) in tensors.items():
        head += string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, len(data))
        data += padded(value)
    return padded(head) + data


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def padded(value: Any) -> bytes:
    return value + b"\0" * (-len(value) % _ALIGNMENT)
