"""Handles panics of libraries written in Rust (tokenizers, safetensors): an exception that `except Exception` does not
catch, and lines on stderr.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from adapter_export.terminal import visible

_lock = threading.Lock()
_commands = 0


def is_panic(error: BaseException) -> bool:
    """Returns whether the error is a panic of a Rust library.

    pyo3 raises PanicException, a BaseException whose class cannot be imported.
    """
    return type(error).__name__ == "PanicException" and type(error).__module__ == "pyo3_runtime"


@contextmanager
def in_command() -> Iterator[None]:
    """Within the `with` statement, the process is a command of ours, whose errors are one line on stderr."""
    global _commands  # noqa: PLW0603
    _commands += 1
    try:
        yield
    finally:
        _commands -= 1


@contextmanager
def unprinted() -> Iterator[None]:
    """Within the `with` statement, a Rust library is called. What it prints when it panics is dropped.

    This is done in a command of ours only, where other output to stderr is printed afterwards. In other programs stderr
    is not touched.
    """
    if not _commands:
        yield
        return
    with _lock, tempfile.TemporaryFile() as kept:
        stderr = os.dup(2)
        os.dup2(kept.fileno(), 2)
        gave_up = False
        try:
            yield
        except BaseException as error:
            gave_up = is_panic(error)
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            kept.seek(0)
            if not gave_up and (text := kept.read()):
                os.write(2, visible(text.decode(errors="backslashreplace")).encode())
