"""Reads zip archives that `torch.save` or numpy wrote, as a whole, up to a size."""

from __future__ import annotations

import zipfile
import zlib
from typing import IO

# Errors that Python's zipfile raises for damaged and encrypted archives with stored or deflated files.
_ERRORS = (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, OverflowError, RuntimeError, ValueError,
           zlib.error)  # fmt: skip


class BadArchive(Exception):
    """Says what is wrong with an archive, in one line."""


def read_archive(content: IO[bytes], limit: int, *, deflated: bool = False) -> dict[str, bytes]:
    """Reads all files of an archive.

    Args:
        content: The archive.
        limit: The most bytes of contents.
        deflated: Whether files may be compressed in the way that numpy uses.

    Returns:
        Contents by file name.

    Raises:
        BadArchive: The archive is broken, has a name twice or more than `limit` bytes of contents, or is compressed in
            a way that is not allowed.
    """
    kinds = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) if deflated else (zipfile.ZIP_STORED,)
    try:
        with zipfile.ZipFile(content) as archive:
            items = archive.infolist()
            # Other compressions need any amount of memory before they give the first byte, and raise other errors.
            if any(item.compress_type not in kinds for item in items):
                what = "deflated contents, found others" if deflated else "uncompressed contents, found compressed ones"
                raise BadArchive(f"expected {what}")
            # Compressed files could unpack to any size, and so could files that share their bytes.
            if (unpacked := sum(item.file_size for item in items)) > limit:
                raise BadArchive(f"expected at most {limit:,} bytes of contents, found {unpacked:,}")
            files = {item.filename: archive.read(item) for item in items}
    except _ERRORS as error:
        raise BadArchive(" ".join(str(error).split())[:200] or type(error).__name__) from None
    if len(files) < len(items):
        raise BadArchive("two files of one name")
    return files
