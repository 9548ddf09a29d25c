"""Archives: what Python's own writer makes is read; what could take any memory, or is damaged, is refused."""

from __future__ import annotations

import contextlib
import io
import random
import zipfile

import pytest

from adapter_export.reading.archives import BadArchive, read_archive


def made(kind: int, **files: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", kind) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_files_are_read(kind: int) -> None:
    files = {"a": b"x" * 1000, "b": b""}
    assert read_archive(io.BytesIO(made(kind, **files)), 1000, deflated=True) == files


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_ones_are_refused(kind: int) -> None:
    with pytest.raises(BadArchive, match="expected uncompressed contents"):
        read_archive(io.BytesIO(made(kind, a=b"x" * 1000)), 1000)
    if kind != zipfile.ZIP_DEFLATED:
        with pytest.raises(BadArchive, match="expected deflated contents"):
            read_archive(io.BytesIO(made(kind, a=b"x" * 1000)), 1000, deflated=True)


def test_more_than_the_limit() -> None:
    with pytest.raises(BadArchive, match="expected at most 999 bytes of contents, found 1,000"):
        read_archive(io.BytesIO(made(zipfile.ZIP_DEFLATED, a=b"x" * 1000)), 999, deflated=True)


def test_a_name_twice() -> None:
    data = made(zipfile.ZIP_STORED, aa=b"1", ab=b"2").replace(b"ab", b"aa")
    with pytest.raises(BadArchive, match="two files of one name"):
        read_archive(io.BytesIO(data), 10)


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_every_damage_is_told(kind: int) -> None:
    """Each bit of a small archive in turn, and each length."""
    data = made(kind, a=b"text " * 20, b=random.Random(0).randbytes(50))
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        for content in (bytes(changed), data[: bit // 8]):
            with contextlib.suppress(BadArchive):
                read_archive(io.BytesIO(content), 1 << 20, deflated=True)
