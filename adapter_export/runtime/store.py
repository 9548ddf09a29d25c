"""Adapters in memory, for many threads."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LoadedAdapter:
    """One adapter, never changed. tensors: read-only, by their names in the graph. labels: None without a task head."""

    name: str
    tensors: Mapping[str, np.ndarray]
    labels: tuple[str, ...] | None

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


class AdapterStore:
    """Loaded adapters by name.

    Only the dictionary is under a lock. Who got an adapter holds its tensors as long as it likes: replacing or removing
    the name changes what the next caller gets, never a run under way.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._adapters: dict[str, LoadedAdapter] = {}
        self.loads: Counter[str] = Counter()

    def get(self, name: str) -> LoadedAdapter | None:
        with self._lock:
            return self._adapters.get(name)

    def put(self, adapter: LoadedAdapter) -> None:
        """Add the adapter, or put it in the place of the one of its name."""
        with self._lock:
            self._adapters[adapter.name] = adapter
            self.loads[adapter.name] += 1

    def remove(self, name: str) -> bool:
        """Forget the adapter; returns whether there was one."""
        with self._lock:
            return self._adapters.pop(name, None) is not None

    def clear(self) -> None:
        with self._lock:
            self._adapters.clear()

    @property
    def nbytes(self) -> int:
        """Memory of all of them."""
        with self._lock:
            return sum(adapter.nbytes for adapter in self._adapters.values())

    @property
    def names(self) -> tuple[str, ...]:
        """In the order in which they were first put."""
        with self._lock:
            return tuple(self._adapters)
