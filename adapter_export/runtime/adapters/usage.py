"""Counts runs and rows per adapter."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adapter_export.runtime.adapters.choice import AdapterKey, names_of


@dataclass(frozen=True)
class AdapterStatistics:
    """How often an adapter was used and loaded, alone or in a composition.

    Attributes:
        batches: Number of batches with at least one row of the adapter.
        rows: Number of rows that ran with the adapter.
        loads: How often the adapter was brought into memory.
        evictions: How often the adapter was removed from memory to make room for another.
    """

    batches: int
    rows: int
    loads: int
    evictions: int


class Usage:
    """Counts batches and rows per adapter, for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._batches: Counter[str | None] = Counter()
        self._rows: Counter[str | None] = Counter()

    def count(self, rows: Sequence[AdapterKey | None]) -> None:
        """Counts a batch.

        Args:
            rows: The adapter of each row; None for the base model. A composition counts for each of its adapters.
        """
        names = [name for row in rows for name in ((None,) if row is None else names_of(row))]
        with self._lock:
            self._batches.update(set(names))
            self._rows.update(names)

    def statistics(self, loads: Mapping[str, int], evictions: Mapping[str, int]) -> dict[str | None, AdapterStatistics]:
        """Returns the statistics by adapter; None is the base model.

        Args:
            loads: Number of loads by adapter.
            evictions: Number of evictions by adapter.
        """
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
