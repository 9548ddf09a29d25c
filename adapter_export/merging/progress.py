"""Counting what several threads have done."""

from __future__ import annotations

import threading
from collections.abc import Callable

# Told how many bytes of how many are done; never twice at a time.
Progress = Callable[[int, int], None]


class Stopped(Exception):
    """Raised in a thread whose work nobody waits for any more."""


class Meter:
    """Adds up bytes, reports the sum, and ends the threads that report to it once something failed."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._progress = progress
        self._done = 0
        self._stopped = False
        self._lock = threading.Lock()

    def tick(self, size: int) -> None:
        """`size` more bytes are done. Raises Stopped after `stop`."""
        with self._lock:
            if self._stopped:
                raise Stopped
            self._done += size
            if self._progress is not None:
                self._progress(self._done, self._total)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
