"""Adapters in memory, and what a run feeds for them: one class for each way that adapters live in a graph."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import numpy as np

from adapter_export.errors import InputError
from adapter_export.runtime.process import Home
from adapter_export.runtime.store import AdapterStore, LoadedAdapter

if TYPE_CHECKING:
    import onnxruntime as ort

# Reads an adapter that is not in memory; raises InputError for an unknown name or a broken file.
Load = Callable[[str], LoadedAdapter]


class Lease:
    """The adapters of one run, which stay as they are until it is released, or nobody has it any more.

    feeds: what the run feeds besides its inputs, by name. adapters: of each row, None for the base model.
    """

    def __init__(
        self,
        feeds: Mapping[str, np.ndarray | ort.OrtValue],
        adapters: Sequence[LoadedAdapter | None],
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self.feeds, self.adapters = feeds, tuple(adapters)
        # Also when the interpreter ends, which may be that of a fork.
        self.release = weakref.finalize(self, Home("a lease").only_here(release))

    def labels(self, base: Sequence[str] | None) -> list[int]:
        """How many labels each row has; an adapter without a head of its own has those of the base model."""
        own = [None if adapter is None else adapter.labels for adapter in self.adapters]
        return [len(labels or base or ()) for labels in own]

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Residents(Protocol):
    """Adapters in memory by name, for many threads."""

    # How often each name was brought into memory, and how often it made way for another.
    loads: Counter[str]
    evictions: Counter[str]

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def nbytes(self) -> int:
        """Memory of the adapters, beside the graph's own."""

    def get(self, name: str) -> LoadedAdapter | None: ...

    def put(self, adapter: LoadedAdapter) -> None:
        """Add the adapter, or put it in the place of the one of its name, for all leases taken from now on."""

    def remove(self, name: str) -> bool:
        """Forget the adapter; returns whether there was one. Leases that have it go on."""

    def clear(self) -> None: ...

    def lease(self, rows: Sequence[str | None], load: Load) -> Lease:
        """The adapters of a batch by name, None for the base model; `load` reads those not in memory.

        Raises InputError when they cannot be in one batch, and what `load` raises.
        """


class InGraph:
    """Modes `merged` and `embedded`: the one adapter is in the graph, and every row has it."""

    def __init__(self, mode: str, adapter: LoadedAdapter) -> None:
        self._mode, self._adapter = mode, adapter
        self.loads: Counter[str] = Counter()
        self.evictions: Counter[str] = Counter()
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
        raise InputError(
            f"mode {self._mode!r} holds its adapter in the graph; only 'swappable' and 'bank' load and unload"
        )


class Swapped:
    """Mode `swappable`: a run is fed the tensors of one adapter, which override the graph's defaults."""

    def __init__(self, nothing: Mapping[str, np.ndarray]) -> None:
        """nothing: what a run without an adapter is fed, and with one for the tensors that it has not."""
        self._nothing = nothing
        self._store = AdapterStore()
        self.loads = self._store.loads
        self.evictions: Counter[str] = Counter()

    @property
    def nbytes(self) -> int:
        return self._store.nbytes

    @property
    def names(self) -> tuple[str, ...]:
        return self._store.names

    def get(self, name: str) -> LoadedAdapter | None:
        return self._store.get(name)

    def put(self, adapter: LoadedAdapter) -> None:
        self._store.put(adapter)

    def remove(self, name: str) -> bool:
        return self._store.remove(name)

    def clear(self) -> None:
        self._store.clear()

    def lease(self, rows: Sequence[str | None], load: Load) -> Lease:
        names = set(rows)
        if len(names) > 1:
            found = ", ".join(sorted(map(repr, names)))
            raise InputError(f"adapters {found}: mode 'swappable' runs one adapter a batch; export with --mode bank")
        if (name := next(iter(names), None)) is None:
            return Lease(self._nothing, [None for _ in rows])
        if (adapter := self._store.get(name)) is None:
            adapter = load(name)
            self._store.put(adapter)
        # The tensors are never changed, only let go: who has them needs no lock.
        return Lease({**self._nothing, **adapter.tensors}, [adapter for _ in rows])
