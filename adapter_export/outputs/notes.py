"""What a piece of work tells the user beside its result."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_PACKAGE = "adapter_export"


class _Gathering(logging.Handler):
    def __init__(self, found: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self._found:
            self._found.append(message)


@contextmanager
def gathered_notes() -> Iterator[list[str]]:
    """A list of what the package logs as warnings in the block, each once."""
    found: list[str] = []
    handler, logger = _Gathering(found), logging.getLogger(_PACKAGE)
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)
