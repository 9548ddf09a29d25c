"""Who was asked how often."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class AdapterStatistics:
    """batches, rows: that ran with the adapter. loads: how often it was brought into memory. evictions: how often it
    made way for another."""

    batches: int
    rows: int
    loads: int
    evictions: int


class Usage:
    """Counts batches and rows by adapter, for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._batches: Counter[str | None] = Counter()
        self._rows: Counter[str | None] = Counter()

    def count(self, rows: Sequence[str | None]) -> None:
        """A batch of these adapters."""
        with self._lock:
            self._batches.update(set(rows))
            self._rows.update(rows)

    def statistics(self, loads: Mapping[str, int], evictions: Mapping[str, int]) -> dict[str | None, AdapterStatistics]:
        with self._lock:
            names = dict.fromkeys([*self._rows, *list(loads)])
            return {
                name: AdapterStatistics(
                    self._batches[name],
                    self._rows[name],
                    loads.get(name, 0) if name is not None else 0,
                    evictions.get(name, 0) if name is not None else 0,
                )
                for name in names
            }
