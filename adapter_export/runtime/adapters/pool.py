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
from adapter_export.runtime.adapters.choice import AdapterKey, Composition, names_of
from adapter_export.runtime.adapters.composer import Composer
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
        """Names of the adapters in memory, alone or in a composition."""

    @property
    def nbytes(self) -> int:
        """Bytes of the adapters, besides those of the graph."""

    def get(self, name: str) -> LoadedAdapter | None:
        """Returns the adapter of this name; None if it is not in memory."""

    def put(self, adapter: LoadedAdapter) -> None:
        """Adds an adapter. Leases taken afterwards get it in place of the previous one of its name."""

    def remove(self, name: str) -> bool:
        """Removes the adapter and its compositions, and returns whether there was one. Leases that hold it keep it."""

    def clear(self) -> None:
        """Removes all adapters."""

    def lease(self, rows: Sequence[AdapterKey | None], load: Load) -> Lease:
        """Returns the adapters of a batch.

        Args:
            rows: The adapter of each row, or its composition; None for the base model.
            load: Reads an adapter that is not in memory.

        Raises:
            InputError: The adapters cannot be in one batch, or not be composed; or `load` raised it.
        """

    def joined(self, leases: Sequence[Lease]) -> Lease:
        """Returns one lease of the rows of several leases of this pool, in their order. It holds what they hold.

        Raises:
            InputError: Their adapters cannot be in one batch.
        """

    def has_room(self, key: AdapterKey | None) -> bool:
        """Returns whether a lease of this adapter or composition would not have to wait for other leases."""


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
    return SwappedPool(manifest, no_adapter)


class FixedAdapter:
    """The one adapter of a graph that holds it, modes merged and embedded. Every row has it."""

    def __init__(self, mode: Mode, info: AdapterInfo) -> None:
        self._mode, self._name = mode, info.name
        self._adapter = LoadedAdapter(info.name, {}, info.labels)
        self.loads: Counter[str] = Counter()
        self.evictions: Counter[str] = Counter()
        self.slots: int | None = None
        self.nbytes = 0

    @property
    def names(self) -> tuple[str, ...]:
        return (self._name,)

    def get(self, name: str) -> LoadedAdapter | None:
        return self._adapter if name == self._name else None

    def put(self, adapter: LoadedAdapter) -> None:
        self._refuse()

    def remove(self, name: str) -> bool:
        self._refuse()
        return False

    def clear(self) -> None: ...

    def lease(self, rows: Sequence[AdapterKey | None], load: Load) -> Lease:
        if others := [key for key in rows if key not in (None, self._name)]:
            raise InputError(
                f"adapter {str(others[0])!r}: mode {self._mode!r} holds one adapter in the graph: {self._name!r}"
            )
        return Lease({}, [self._adapter for _ in rows])

    def joined(self, leases: Sequence[Lease]) -> Lease:
        return one_of(leases)

    def has_room(self, key: AdapterKey | None) -> bool:
        return True

    def _refuse(self) -> None:
        takers = " and ".join(map(repr, Mode.that_take_adapters()))
        raise InputError(f"mode {self._mode!r} holds its adapter in the graph; only {takers} load and unload")


class SwappedPool:
    """Adapters of mode swappable. A run is fed the tensors of one of them, which override the graph's defaults.

    Only the dictionary is under a lock. Tensors are never changed: a run that holds an adapter keeps its tensors, even
    if the name is removed or gets another adapter during the run.
    """

    def __init__(self, manifest: Manifest, defaults: Mapping[str, np.ndarray]) -> None:
        """Makes an empty pool.

        Args:
            manifest: The manifest of the bundle.
            defaults: Tensors fed when no adapter is active, and for sites that the active adapter does not have.
        """
        self._defaults, self._composer = defaults, Composer(manifest)
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
            return sum(adapter.nbytes for adapter in self._adapters.values()) + self._composer.nbytes

    def get(self, name: str) -> LoadedAdapter | None:
        with self._lock:
            return self._adapters.get(name)

    def put(self, adapter: LoadedAdapter) -> None:
        with self._lock:
            self._adapters[str(adapter.key)] = adapter
            self.loads[str(adapter.key)] += 1

    def remove(self, name: str) -> bool:
        with self._lock:
            known = self._adapters.pop(name, None) is not None
        self._composer.forget(name)
        return known

    def clear(self) -> None:
        with self._lock:
            self._adapters.clear()
        self._composer.clear()

    def lease(self, rows: Sequence[AdapterKey | None], load: Load) -> Lease:
        keys = set(rows)
        if len(keys) > 1:
            found = ", ".join(sorted("None" if key is None else repr(str(key)) for key in keys))
            raise InputError(f"adapters {found}: mode 'swappable' runs one adapter a batch; export with --mode bank")
        if (key := next(iter(keys), None)) is None:
            return Lease(self._defaults, [None for _ in rows])
        parts = [self._loaded(name, load) for name in names_of(key)]
        adapter = self._composer.kept(key, parts) if isinstance(key, Composition) else parts[0]
        return Lease({**self._defaults, **adapter.tensors}, [adapter for _ in rows])

    def joined(self, leases: Sequence[Lease]) -> Lease:
        return one_of(leases)

    def has_room(self, key: AdapterKey | None) -> bool:
        return True

    def _loaded(self, name: str, load: Load) -> LoadedAdapter:
        if (adapter := self.get(name)) is None:
            adapter = load(name)
            self.put(adapter)
        return adapter


def one_of(leases: Sequence[Lease]) -> Lease:
    """Returns the lease of the rows of several leases, all of which have the same adapter.

    Raises:
        InputError: Their adapters differ, or versions of one adapter.
    """
    rows = [adapter for lease in leases for adapter in lease.adapters]
    if any(adapter is not rows[0] for adapter in rows):
        raise InputError("adapters: expected one adapter for all rows, found several, or several versions of one")
    return Lease(leases[0].feeds, rows)
