"""Copies bytes between files in the fastest way that the system offers: shared extents, a copy in the kernel, or a
loop.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from io import FileIO
from pathlib import Path

from adapter_export.errors import InputError
from adapter_export.reading.files import open_raw

# Linux, <linux/fs.h>: makes a file share all extents of another (Btrfs, XFS, bcachefs).
_FICLONE = 0x40049409
# Bytes that are copied at a time: by the kernel, between two reports of progress; and by a loop, in memory.
_KERNEL_BYTES = 64 << 20
_BUFFER_BYTES = 1 << 20
# Errors by which the kernel says that it cannot copy between these two files. Any other is a real error.
_UNSUPPORTED = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY})

# Called with the number of bytes that were just done.
Tick = Callable[[int], None]


def clone(source: FileIO, target: FileIO) -> bool:
    """Makes the empty file `target` share the content of `source`. Returns False if the file system cannot do that."""
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
    except OSError:
        return False
    return True


def can_share(source: Path, folder: Path) -> bool:
    """Returns whether a file in `folder` can share the content of `source`."""
    probe = folder / ".shared"
    try:
        with open_raw(source) as given, FileIO(probe, "xb") as made:
            return clone(given, made)
    finally:
        probe.unlink(missing_ok=True)


def copy_range(source: FileIO, begin: int, target: FileIO, at: int, size: int, tick: Tick) -> None:
    """Copies a range of bytes from one open file to another.

    Args:
        source: The file to read.
        begin: Where the range begins in `source`.
        target: The file to write.
        at: Where the range begins in `target`.
        size: Number of bytes.
        tick: Called with the number of bytes, whenever some are done.

    Raises:
        InputError: `source` ends before the range does.
        OSError: Reading or writing fails.
    """
    done = 0
    while done < size:
        copied = _in_kernel(source, begin + done, target, at + done, min(_KERNEL_BYTES, size - done))
        if copied is None:
            break
        if copied == 0:
            raise _shrunk(source)
        done += copied
        tick(copied)
    while done < size:
        chunk = read_at(source, begin + done, min(_BUFFER_BYTES, size - done))
        write_at(target, at + done, chunk)
        done += len(chunk)
        tick(len(chunk))


def read_at(source: FileIO, begin: int, size: int) -> bytes:
    """Returns exactly `size` bytes from `begin`. Raises InputError if the file ends before."""
    source.seek(begin)
    chunks: list[bytes] = []
    while size:
        if not (chunk := source.read(size)):
            raise _shrunk(source)
        chunks.append(chunk)
        size -= len(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def write_at(target: FileIO, begin: int, content: bytes | memoryview) -> None:
    """Writes all of `content`, from `begin`."""
    target.seek(begin)
    view = memoryview(content).cast("B")
    while view:
        view = view[target.write(view) or 0 :]


def _shrunk(source: FileIO) -> InputError:
    return InputError(f"{source.name!s}: became shorter while it was read")


def _in_kernel(source: FileIO, begin: int, target: FileIO, at: int, size: int) -> int | None:
    """Returns the number of bytes copied; None if the kernel cannot copy between these files."""
    if sys.platform != "linux":
        return None
    try:
        return os.copy_file_range(source.fileno(), target.fileno(), size, begin, at)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        raise
