"""Zip archives from somewhere else, as `torch.save` and numpy write them: read whole, up to a size."""

from __future__ import annotations

import zipfile
import zlib
from typing import IO

# What Python's reader of archives raises for damaged and encrypted ones, whose files are stored or deflated.
_ERRORS = (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, OverflowError, RuntimeError, ValueError,
           zlib.error)  # fmt: skip


class BadArchive(Exception):
    """What is wrong with an archive, in one line."""


def read_archive(content: IO[bytes], limit: int, *, deflated: bool = False) -> dict[str, bytes]:
    """The files in an archive by their names. Raises BadArchive for a broken one, a name twice, more than `limit` bytes
    of contents, and files that are compressed; with `deflated`, in another way than numpy does."""
    kinds = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) if deflated else (zipfile.ZIP_STORED,)
    try:
        with zipfile.ZipFile(content) as archive:
            items = archive.infolist()
            # Other ways need any amount of memory before the first byte is there, and have errors of their own.
            if any(item.compress_type not in kinds for item in items):
                what = "deflated contents, found others" if deflated else "uncompressed contents, found compressed ones"
                raise BadArchive(f"expected {what}")
            # What is compressed could unpack to any size, and so could files that share their bytes.
            if (unpacked := sum(item.file_size for item in items)) > limit:
                raise BadArchive(f"expected at most {limit:,} bytes of contents, found {unpacked:,}")
            files = {item.filename: archive.read(item) for item in items}
    except _ERRORS as error:
        raise BadArchive(" ".join(str(error).split())[:200] or type(error).__name__) from None
    if len(files) < len(items):
        raise BadArchive("two files of one name")
    return files
