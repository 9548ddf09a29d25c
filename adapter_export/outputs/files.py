"""Writes single files as a whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from adapter_export.errors import InputError, OutputExists


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON file as a whole or not at all, and replaces the file that was there. Raises OSError."""
    atomic_file(path, (json.dumps(value, indent=2) + "\n").encode())


def atomic_file(path: Path, content: bytes) -> None:
    """Writes a file as a whole or not at all, and replaces a file or link that was there. Raises OSError."""
    with atomic_writer(path) as file:
        file.write(content)


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Yields a file whose content takes its place, as `path`, at the end of the `with` statement; not after an error.

    Raises:
        OSError: It cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_new_file(path: Path, option: str, *, force: bool) -> None:
    """Checks that a file can be written, before minutes are spent on its content.

    Args:
        path: The file.
        option: The option that it was given with, for error messages.
        force: Whether to replace a file.

    Raises:
        InputError: Its folder does not exist, or it is a folder.
        OutputExists: It exists already.
    """
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: no such folder {path.parent}")
    if path.is_dir():
        raise InputError(f"{option} {path}: expected a file, found a folder")
    if path.exists() and not force:
        raise OutputExists(f"{option} {path}: already there; choose another file or pass --force")


@contextmanager
def library_writes(path: Path) -> Iterator[None]:
    """Turns errors of a library that writes to `path` within the `with` statement into OSError.

    For a disk that is full or fails, libraries in C++ or Rust raise errors of their own: RuntimeError (PyTorch),
    SafetensorError, and Exception itself (tokenizers).

    Raises:
        OSError: The library could not write.
    """
    try:
        yield
    except Exception as error:
        if type(error) in (Exception, RuntimeError) or type(error).__name__ == "SafetensorError":
            raise OSError(f"{path}: could not be written: {' '.join(str(error).split())[:300]}") from error
        raise


def sync(path: Path) -> None:
    """Makes a file or folder durable, if the system can do that for it."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
