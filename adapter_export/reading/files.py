"""Opens and reads files that come from elsewhere: regular files only, below their folder, up to a size."""

from __future__ import annotations

import errno
import os
import stat
from io import FileIO
from pathlib import Path
from typing import IO

from adapter_export.errors import InputError
from adapter_export.reading.links import leads_to

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISLNK, "a link that leads back to itself"),
)
_CHUNK_BYTES = 1 << 20


def present(path: Path) -> bool:
    """Returns whether anything has this name. A link that leads nowhere counts, as it is not the same as a missing
    file.
    """
    return "\0" not in str(path) and os.path.lexists(path)


def regular_file(path: Path, root: Path | None = None) -> Path:
    """Returns the file that `path` leads to. For files that a library opens by itself.

    Args:
        path: The file.
        root: The folder that must hold it, see `leads_to`.

    Raises:
        InputError: The file is missing, outside the folder, or not a regular file.
    """
    target = leads_to(path, root)
    _stat(path, target)
    return target


def size_of(path: Path, root: Path | None = None) -> int:
    """Returns the size of the file in bytes. Arguments and errors are those of `regular_file`."""
    return _stat(path, leads_to(path, root)).st_size


def open_file(path: Path, root: Path | None = None) -> IO[bytes]:
    """Opens the file for reading.

    Args:
        path: The file.
        root: The folder that must hold it, see `leads_to`.

    Raises:
        InputError: The file is missing, outside the folder, not a regular file, or must not be read.
    """
    target = regular_file(path, root)
    try:
        # With `opener`, later messages have the name that the user knows.
        return open(path, "rb", opener=lambda _, flags: _open_regular(path, target, flags))
    except OSError as error:
        raise _unreadable(path, error) from None


def open_raw(path: Path, root: Path | None = None) -> FileIO:
    """Does the same as `open_file`, without a buffer, for copying in the kernel."""
    target = regular_file(path, root)
    try:
        return FileIO(str(path), "rb", opener=lambda _, flags: _open_regular(path, target, flags))
    except OSError as error:
        raise _unreadable(path, error) from None


def read_bytes(path: Path, limit: int, root: Path | None = None) -> bytes:
    """Returns the content of the file. Raises InputError as `open_file`, and if it has more than `limit` bytes."""
    with open_file(path, root) as file:
        if (size := os.fstat(file.fileno()).st_size) > limit:
            raise InputError(f"{path}: expected a file of at most {_readable(limit)}, found {size:,} bytes")
        try:
            # One byte more than the known size, so that a file that grows meanwhile cannot fill the memory.
            data = file.read(size + 1)
        except OSError as error:
            raise _unreadable(path, error) from None
    return data


def read_text(path: Path, limit: int, root: Path | None = None, encoding: str = "utf-8") -> str:
    """Returns the content of the file as text. Raises InputError as `read_bytes`, and if it is not in this encoding."""
    return decoded(path, read_bytes(path, limit, root), encoding)


def read_given(path: Path, limit: int) -> bytes:
    """Returns the content of a file that the user named and that is not part of a folder.

    It may be a link to anywhere, a pipe (`/dev/stdin`, or a shell's `<(command)`), or a terminal.

    Raises:
        InputError: The file is missing, cannot be read, is of another kind, or has more than `limit` bytes.
    """
    if "\0" in str(path):
        raise InputError(f"{str(path)!r}: expected a path without NUL characters")
    chunks: list[bytes] = []
    size = 0
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or file.isatty()):
                raise InputError(f"{path}: expected a file, found {_kind(mode)}")
            while chunk := file.read(_CHUNK_BYTES):
                chunks.append(chunk)
                if (size := size + len(chunk)) > limit:
                    raise InputError(f"{path}: expected at most {_readable(limit)}, found more")
    except OSError as error:
        raise _unreadable(path, error) from None
    return b"".join(chunks)


def decoded(path: Path, data: bytes, encoding: str = "utf-8") -> str:
    """Returns the bytes of `path` as text. Raises InputError if they are not in this encoding."""
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8, found: {error.reason} at byte {error.start}") from None


def _open_regular(path: Path, target: Path, flags: int) -> int:
    # Without waiting, in case the file was replaced by a pipe since it was checked.
    extra = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NOCTTY", 0)
    descriptor = os.open(target, flags | extra)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise _irregular(path, mode)
    return descriptor


def _stat(path: Path, target: Path) -> os.stat_result:
    """Returns the status of a regular file. It is read before the file is opened, as opening a device may have an
    effect.
    """
    try:
        found = os.lstat(target)
    except OSError as error:
        raise _unreadable(path, error) from None
    if not stat.S_ISREG(found.st_mode):
        raise _irregular(path, found.st_mode)
    return found


def _irregular(path: Path, mode: int) -> InputError:
    return InputError(f"{path}: expected a regular file, found {_kind(mode)}")


def _kind(mode: int) -> str:
    return next((name for test, name in _KINDS if test(mode)), "something else")


def _unreadable(path: Path, error: OSError) -> InputError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return InputError(f"{path}: no such file")
    return InputError(f"{path}: cannot be read: {error.strerror or error}")


def _readable(size: int) -> str:
    return f"{size >> 30} GiB" if size >= 1 << 30 else f"{size >> 20} MiB" if size >= 1 << 20 else f"{size:,} bytes"
