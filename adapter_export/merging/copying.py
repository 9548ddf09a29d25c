"""Bytes from file to file by the quickest way the system offers: shared extents, a copy in the kernel, or by hand."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from io import FileIO
from pathlib import Path

from adapter_export.errors import InputError
from adapter_export.reading.files import open_raw

# Linux, <linux/fs.h>: let a file share all of another's extents (Btrfs, XFS, bcachefs).
_FICLONE = 0x40049409
# Bytes at a time: what the kernel copies between two looks at the progress, and what is held in memory otherwise.
_KERNEL_BYTES = 64 << 20
_BUFFER_BYTES = 1 << 20
# The kernel says so where it cannot copy between these two files; anything else is a real error.
_UNSUPPORTED = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY})

# Told the number of bytes just done.
Tick = Callable[[int], None]


def clone(source: FileIO, target: FileIO) -> bool:
    """Make the empty file `target` share the content of `source`; False where the file system cannot."""
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
    except OSError:
        return False
    return True


def can_share(source: Path, folder: Path) -> bool:
    """Whether a file in `folder` can share the content of `source`."""
    probe = folder / ".shared"
    try:
        with open_raw(source) as given, FileIO(probe, "xb") as made:
            return clone(given, made)
    finally:
        probe.unlink(missing_ok=True)


def copy_range(source: FileIO, begin: int, target: FileIO, at: int, size: int, tick: Tick) -> None:
    """Copy `size` bytes from `begin` of one open file to `at` of another. Raises OSError, and InputError for a source
    that ends before."""
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
    """Exactly `size` bytes from `begin`. Raises InputError where the file ends before."""
    source.seek(begin)
    chunks: list[bytes] = []
    while size:
        if not (chunk := source.read(size)):
            raise _shrunk(source)
        chunks.append(chunk)
        size -= len(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def write_at(target: FileIO, begin: int, content: bytes | memoryview) -> None:
    """All of `content` from `begin`."""
    target.seek(begin)
    view = memoryview(content).cast("B")
    while view:
        view = view[target.write(view) or 0 :]


def _shrunk(source: FileIO) -> InputError:
    return InputError(f"{source.name!s}: became shorter while it was read")


def _in_kernel(source: FileIO, begin: int, target: FileIO, at: int, size: int) -> int | None:
    """Bytes copied, or None where the kernel cannot copy between these files."""
    if sys.platform != "linux":
        return None
    try:
        return os.copy_file_range(source.fileno(), target.fileno(), size, begin, at)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        raise
