"""Libraries written in Rust (tokenizers, safetensors) that give up: an exception that passes every `except Exception`,
and lines on stderr that no exception holds."""

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
    """Whether a library in Rust gave up: pyo3 raises its PanicException, whose class nobody can import, as a
    BaseException."""
    return type(error).__name__ == "PanicException" and type(error).__module__ == "pyo3_runtime"


@contextmanager
def in_command() -> Iterator[None]:
    """While this lasts, the process is a command of ours, whose stderr is to say everything in one line."""
    global _commands  # noqa: PLW0603
    _commands += 1
    try:
        yield
    finally:
        _commands -= 1


@contextmanager
def unprinted() -> Iterator[None]:
    """Run a call into such a library: in a command of ours, what it prints when it gives up is dropped, and anything
    else comes out afterwards. Elsewhere stderr belongs to a program of somebody else, and stays as it is."""
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
