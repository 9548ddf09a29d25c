"""The adapters of a session in memory, by name: one class for each way that a graph takes adapters."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from adapter_export.bundle.manifest import AdapterInfo, Manifest
from adapter_export.bundle.modes import Mode
from adapter_export.errors import InputError
from adapter_export.providers import Provider
from adapter_export.runtime.adapters.bank import BankPool
from adapter_export.runtime.adapters.loaded import Lease, Load, LoadedAdapter


class AdapterPool(Protocol):
    """Adapters in memory by name, for many threads.

    Attributes:
        loads: How often each name was brought into memory.
        evictions: How often each name was removed to make room for another.
        slots: How many adapters fit at once; None without a limit.
    """

    loads: Counter[str]
    evictions: Counter[str]
    slots: int | None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the adapters in memory."""

    @property
    def nbytes(self) -> int:
        """Bytes of the adapters, besides those of the graph."""

    def get(self, name: str) -> LoadedAdapter | None:
        """Returns the adapter of this name; None if it is not in memory."""

    def put(self, adapter: LoadedAdapter) -> None:
        """Adds the adapter. Leases taken afterwards get it in place of the previous one of its name."""

    def remove(self, name: str) -> bool:
        """Removes the adapter and returns whether there was one. Leases that hold it keep it."""

    def clear(self) -> None:
        """Removes all adapters."""

    def lease(self, rows: Sequence[str | None], load: Load) -> Lease:
        """Returns the adapters of a batch.

        Args:
            rows: The name of each row's adapter; None for the base model.
            load: Reads an adapter that is not in memory.

        Raises:
            InputError: The adapters cannot be in one batch, or `load` raised it.
        """


def open_pool(
    manifest: Manifest, no_adapter: Mapping[str, np.ndarray], provider: Provider, slots: int | None = None
) -> AdapterPool:
    """Returns an empty pool for the graphs of a bundle.

    Args:
        manifest: The manifest of the bundle.
        no_adapter: Tensors of no adapter that are not in the graph, see `bundle_checks.read_no_adapter`.
        provider: Where the session runs.
        slots: In mode bank, how many adapters are in memory at once; None for the manifest's number.

    Raises:
        InputError: `slots` is less than 1.
    """
    if (info := manifest.in_graph) is not None:
        return FixedAdapter(manifest.mode, info)
    if manifest.mode.per_row:
        return BankPool(manifest, no_adapter, manifest.slots if slots is None else slots, provider)
    return SwappedPool(no_adapter)


class FixedAdapter:
    """The one adapter of a graph that holds it, modes merged and embedded. Every row has it."""

    def __init__(self, mode: Mode, info: AdapterInfo) -> None:
        self._mode, self._adapter = mode, LoadedAdapter(info.name, {}, info.labels)
        self.loads: Counter[str] = Counter()
        self.evictions: Counter[str] = Counter()
        self.slots: int | None = None
        self.nbytes = 0

    @property
    def names(self) -> tuple[str, ...]:
        return (self._adapter.name,)

    def get(self, name: str) -> LoadedAdapter | None:
        return self._adapter if name == self._adapter.name else None

    def put(self, adapter: LoadedAdapter) -> None:
        self._refuse()

    def remove(self, name: str) -> bool:
        self._refuse()
        return False

    def clear(self) -> None: ...

    def lease(self, rows: Sequence[str | None], load: Load) -> Lease:
        if others := [name for name in rows if name not in (None, self._adapter.name)]:
            raise InputError(
                f"adapter {others[0]!r}: mode {self._mode!r} holds one adapter in the graph: {self._adapter.name!r}"
            )
        return Lease({}, [self._adapter for _ in rows])

    def _refuse(self) -> None:
        takers = " and ".join(map(repr, Mode.that_take_adapters()))
        raise InputError(f"mode {self._mode!r} holds its adapter in the graph; only {takers} load and unload")


class SwappedPool:
    """Adapters of mode swappable. A run is fed the tensors of one of them, which override the graph's defaults.

    Only the dictionary is under a lock. Tensors are never changed: a run that holds an adapter keeps its tensors, even
    if the name is removed or gets another adapter during the run.
    """

    def __init__(self, defaults: Mapping[str, np.ndarray]) -> None:
        """Makes an empty pool.

        Args:
            defaults: Tensors fed when no adapter is active, and for sites that the active adapter does not have.
        """
        self._defaults = defaults
        self._lock = threading.Lock()
        self._adapters: dict[str, LoadedAdapter] = {}
        self.loads: Counter[str] = Counter()
        self.evictions: Counter[str] = Counter()
        self.slots: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """In the order in which they were first put."""
        with self._lock:
            return tuple(self._adapters)

    @property
    def nbytes(self) -> int:
        with self._lock:
            return sum(adapter.nbytes for adapter in self._adapters.values())

    def get(self, name: str) -> LoadedAdapter | None:
        with self._lock:
            return self._adapters.get(name)

    def put(self, adapter: LoadedAdapter) -> None:
        with self._lock:
            self._adapters[adapter.name] = adapter
            self.loads[adapter.name] += 1

    def remove(self, name: str) -> bool:
        with self._lock:
            return self._adapters.pop(name, None) is not None

    def clear(self) -> None:
        with self._lock:
            self._adapters.clear()

    def lease(self, rows: Sequence[str | None], load: Load) -> Lease:
        names = set(rows)
        if len(names) > 1:
            found = ", ".join(sorted(map(repr, names)))
            raise InputError(f"adapters {found}: mode 'swappable' runs one adapter a batch; export with --mode bank")
        if (name := next(iter(names), None)) is None:
            return Lease(self._defaults, [None for _ in rows])
        if (adapter := self.get(name)) is None:
            adapter = load(name)
            self.put(adapter)
        return Lease({**self._defaults, **adapter.tensors}, [adapter for _ in rows])
