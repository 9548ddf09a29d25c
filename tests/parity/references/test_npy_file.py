"""Arrays of records: what numpy writes is read, and what numpy's reader refuses is refused."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from adapter_export.parity.references.npy_file import NotArray, parse_npy


def written(array: Any, **options: Any) -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array(content, np.asanyarray(array), **options)
    return content.getvalue()


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "<i8", ">i4", "<f2", "<f4", "<f8", ">f8"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 4), (1,) * 20])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numbers(dtype: str, shape: tuple[int, ...], order: Any) -> None:
    array = np.asarray(np.random.default_rng(0).integers(0, 2, shape).astype(dtype), order=order)
    found = parse_npy(written(array))
    np.testing.assert_array_equal(found, array, strict=True)
    assert found.dtype.str == array.dtype.str


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_versions_and_texts(version: tuple[int, int]) -> None:
    for text in ("", "one", "ü€𝄞", "x" * 700):
        assert str(parse_npy(written(text, version=version))) == text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no array"),
        (b"\x93NUMPY\x04\x00", "no array"),
        (written(np.ones(3))[:40], "a header that"),
        (written(np.ones(3)).replace(b"(3,)", b"(9,)"), "24 bytes do not hold"),
        (written(np.ones(3)) + b"\0", "25 bytes do not hold"),
        (written(np.ones((0, 12))).replace(b"(0, 12)", b"(0, 9" + b"9" * 17 + b")"), "do not hold"),
        (written(np.ones((0, 12))).replace(b"(0, 12)", b"(0, " + b"9, " * 90 + b")"), "a header that"),
        (written(np.array([{}], object), allow_pickle=True), "a header that"),
        (written(np.ones(3)).replace(b"'<f8'", b"f'<f8"), "a header that"),  # of a text that begins anew
        (written(np.ones(3)).replace(b"(3,)", b"((((((((((3,)"), "a header that"),
        (written("a").replace(b"a\0\0\0", b"\xff\xff\xff\xff"), "what is no character"),
        (written(np.ones(2, [("a", "f4")])), "a header that"),
        (written(np.datetime64("2026")), "a header that"),
    ],
)
def test_what_is_none(data: bytes, message: str) -> None:
    with pytest.raises(NotArray, match=message):
        parse_npy(data)
