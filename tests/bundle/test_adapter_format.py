"""The reader of adapter files: the same as ONNX Runtime's on good ones, an error and never more on broken ones."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from adapter_export.bundle.adapter_format import parse_adapter


def written(path: Path, tensors: Mapping[str, np.ndarray], model_version: int = 7) -> bytes:
    """Bytes of a file that ONNX Runtime wrote."""
    file = ort.AdapterFormat()
    file.set_adapter_version(3)
    file.set_model_version(model_version)
    file.set_parameters({name: ort.OrtValue.ortvalue_from_numpy(tensor) for name, tensor in tensors.items()})
    file.export_adapter(str(path))
    return path.read_bytes()


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "a.down": rng.normal(size=(4, 3)).astype("f4"),
        "a.bias": rng.normal(size=3).astype("f4"),
        "a.up": rng.normal(size=(3, 4)).astype("f4"),
    }


@pytest.fixture(scope="module")
def good(tensors: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return written(tmp_path_factory.mktemp("format") / "good.onnx_adapter", tensors)


@pytest.mark.parametrize(
    "dtype",
    ["float32", "float16", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"],
)
def test_reads_what_onnx_runtime_writes(dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes: list[tuple[int, ...]] = [(), (1,), (5,), (3, 2), (2, 1, 3), (0, 4)]
    tensors = {f"site.{i}.é": np.asarray(rng.integers(0, 100, shape), dtype) for i, shape in enumerate(shapes)}
    data = written(tmp_path / "a", tensors)
    content = parse_adapter(data)
    assert (content.adapter_version, content.model_version) == (3, 7)
    assert set(content.places) == set(tensors)
    for name, tensor in tensors.items():
        found = content.tensors(data)[name]
        assert (found.dtype, found.shape, found.tobytes()) == (tensor.dtype, tensor.shape, tensor.tobytes())
        assert found.flags.aligned
        assert not found.flags.writeable
        assert found.base is None or found.base is data  # a copy only where it lies unaligned


def test_reads_bfloat16(tmp_path: Path) -> None:
    # numpy's bridge to ONNX Runtime has no bfloat16: the same bytes under its number.
    half = np.array([1.0, -2.5, 0.0], np.float32).view(np.uint32) >> 16
    data = bytearray(written(tmp_path / "a", {"x": half.astype(np.float16)}))
    start = data.index(half.astype(np.float16).tobytes())
    data[start : start + 6] = half.astype(np.uint16).tobytes()
    place = next(i for i in range(0, len(data), 4) if struct.unpack_from("<i", data, i) == (10,))
    struct.pack_into("<i", data, place, 16)
    assert parse_adapter(bytes(data)).tensors(bytes(data))["x"].astype(np.float32).tolist() == [1.0, -2.5, 0.0]


def test_an_empty_file_of_the_format(tmp_path: Path) -> None:
    assert parse_adapter(written(tmp_path / "a", {})).places == {}


@pytest.mark.parametrize("data", [b"", b"TORT", b"\0\0\0\0TORT", bytes(100), b"\x08\0\0\0ORTM" + bytes(50)])
def test_what_is_no_adapter_file(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"mark TORT is missing|broken structure|format version"):
        parse_adapter(data)


def test_every_truncation_is_refused(good: bytes) -> None:
    # The very last bytes may be padding.
    last = len(good.rstrip(b"\0"))
    for length in range(last):
        with pytest.raises(ValueError, match=r"."):
            parse_adapter(good[:length])


def test_sizes_that_lie(good: bytes, tensors: dict[str, np.ndarray]) -> None:
    """Dims of the one matrix [4, 3], and the length of its data, in every combination that does not fit."""
    dims = good.index(struct.pack("<qq", 4, 3))
    length = good.index(tensors["a.down"].tobytes()) - 4
    assert struct.unpack_from("<I", good, length) == (48,)
    for value in (0, 1, 2, 5, 1 << 20, 1 << 31, 1 << 40, (1 << 62) + 1, -1, -4):
        data = bytearray(good)
        struct.pack_into("<q", data, dims, value)
        with pytest.raises(ValueError, match=r"48 bytes do not hold \["):
            parse_adapter(bytes(data))
    data = bytearray(good)
    struct.pack_into("<qq", data, dims, -4, -3)
    with pytest.raises(ValueError, match=r"48 bytes do not hold \[-4, -3\]"):
        parse_adapter(bytes(data))
    for size in (0, 47, 49, 1 << 20, (1 << 32) - 1):
        data = bytearray(good)
        struct.pack_into("<I", data, length, size)
        with pytest.raises(ValueError, match=r"bytes do not hold \[|beyond the end"):
            parse_adapter(bytes(data))


def test_an_offset_to_before_the_file(good: bytes) -> None:
    """Python would read from the end, where a copy of what belongs there stands."""
    (root,) = struct.unpack_from("<I", good)
    vtable = root - struct.unpack_from("<i", good, root)[0]
    (size,) = struct.unpack_from("<H", good, vtable)
    data = bytearray(good + good[vtable : vtable + size])
    struct.pack_into("<i", data, root, root + size)
    with pytest.raises(ValueError, match="an offset points before the file"):
        parse_adapter(bytes(data))


def test_a_wrong_format_version(good: bytes) -> None:
    data = bytearray(good)
    place = next(
        i for i in range(8, 60, 4) if good[i : i + 4] == struct.pack("<i", 1) and parse_version(good, i) is not None
    )
    struct.pack_into("<i", data, place, 2)
    with pytest.raises(ValueError, match="format version 2, expected 1"):
        parse_adapter(bytes(data))


def parse_version(good: bytes, place: int) -> int | None:
    """`place`, if it is where the format version stands."""
    data = bytearray(good)
    struct.pack_into("<i", data, place, 99)
    try:
        parse_adapter(bytes(data))
    except ValueError as error:
        return place if "format version 99" in str(error) else None
    return None


def test_a_name_there_twice(tmp_path: Path) -> None:
    data = written(tmp_path / "a", {"aa": np.zeros(2, "f4"), "ab": np.ones(2, "f4")})
    with pytest.raises(ValueError, match="tensor 'aa' is there twice"):
        parse_adapter(data.replace(b"ab", b"aa"))


def test_no_damage_does_more_than_raise_value_error(good: bytes) -> None:
    """Files on which ONNX Runtime 1.23 reads outside its memory and dies are among these."""
    refused = 0
    for data in damaged(good):
        try:
            content = parse_adapter(data)
        except ValueError:
            refused += 1
        else:
            # What is read lies inside the file.
            assert sum(t.nbytes for t in content.tensors(data).values()) <= len(data) * len(content.places)
    assert refused > 3000


def damaged(good: bytes) -> Iterator[bytes]:
    rng = random.Random(0)
    for place in range(len(good)):
        for value in (0, 1, 0x7F, 0x80, 0xFF):
            yield good[:place] + bytes([value]) + good[place + 1 :]
    for place in range(0, len(good) - 8, 4):
        for number in (0, 1, 100, 1 << 31, (1 << 63) - 1, -1):
            yield good[:place] + struct.pack("<q", number) + good[place + 8 :]
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(rng.choice((1, 2, 4, 8))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        yield bytes(data)
