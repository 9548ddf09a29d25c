"""Mode `bank`: many adapters in memory at once, and each row of a batch with its own."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from adapter_export.bundle.bank import NO_ADAPTER, kind_of, table_of
from adapter_export.bundle.manifest import ADAPTER_IDS, Manifest, TensorInfo
from adapter_export.bundle.no_adapter import no_adapter_tensors
from adapter_export.errors import InputError
from adapter_export.runtime.residents import Lease, Load
from adapter_export.runtime.rows import Rows
from adapter_export.runtime.store import LoadedAdapter

if TYPE_CHECKING:
    import onnxruntime as ort

# How long a batch waits for slots that other runs hold.
WAIT_SECONDS = 60.0


@dataclass(eq=False)
class _Resident:
    """An adapter in its slot. rows: by kind. pins: leases that have it. gone: its name is another's, or nobody's."""

    adapter: LoadedAdapter
    slot: int
    rows: Mapping[str, int]
    pins: int = 0
    gone: bool = False


class AdapterBank:
    """Up to `slots` adapters, for many threads. What a lease has is never overwritten and never evicted.

    When all slots are taken, the adapter least recently used by a lease makes way; when leases hold them all, a new one
    waits, up to WAIT_SECONDS. A name put anew gets a slot of its own: leases go on with the old version, and the next
    one gets the new.
    """

    def __init__(self, manifest: Manifest, nothing: Mapping[str, np.ndarray], slots: int, device: str) -> None:
        """nothing: tensors of no adapter, where they are not one repeated value (the base model's own task head)."""
        if slots < 1:
            raise InputError(f"slots {slots}: expected at least 1")
        self.slots = slots
        # Reentrant: the collector may end a lease that nobody has any more while this thread holds it. That only adds
        # to what is free.
        self._changed = threading.Condition(threading.RLock())
        self._residents: OrderedDict[str, _Resident] = OrderedDict()  # least recently used first
        self._free = list(range(slots, 0, -1))
        self.loads: Counter[str] = Counter()
        self.evictions: Counter[str] = Counter()
        without = no_adapter_tensors(manifest, nothing)
        self._kinds = {
            kind: Rows(tensors, {name: without[name] for name in tensors}, slots, device)
            for kind, tensors in _by_kind(manifest).items()
        }
        # How often a name was put or removed: what was read from a file before is then no longer what it stands for.
        self._changes: Counter[str] = Counter()
        # A slot's entries are written before anybody has its number, and stay while somebody has it.
        self._tables = {kind: np.zeros(1 + slots, np.int64) for kind in self._kinds}
        self._no_rows = np.zeros(1 + slots, np.int64)

    @property
    def names(self) -> tuple[str, ...]:
        """Least recently used first."""
        with self._changed:
            return tuple(self._residents)

    @property
    def nbytes(self) -> int:
        """Memory of the adapters in their rows."""
        with self._changed:
            return sum(rows.used * rows.row_bytes for rows in self._kinds.values())

    def get(self, name: str) -> LoadedAdapter | None:
        with self._changed:
            found = self._residents.get(name)
        return None if found is None else found.adapter

    def put(self, adapter: LoadedAdapter) -> None:
        with self._changed:
            self._wait(lambda: bool(self._free) or self._idle() is not None)
            self._changes[adapter.name] += 1
            self._place(adapter)

    def remove(self, name: str) -> bool:
        with self._changed:
            self._changes[name] += 1
            if (found := self._residents.pop(name, None)) is None:
                return False
            self._retire(found)
            return True

    def clear(self) -> None:
        for name in self.names:
            self.remove(name)

    def lease(self, rows: Sequence[str | None], load: Load) -> Lease:
        wanted = list(dict.fromkeys(name for name in rows if name is not None))
        if len(wanted) > self.slots:
            raise InputError(f"adapters: {len(wanted)} different ones in a batch, but the bank has {self.slots} slots")
        # Files are read with no lock held: meanwhile another thread may put the name, or evict what was there.
        read: dict[str, LoadedAdapter] = {}
        changes: dict[str, int] = {}
        while True:
            with self._changed:
                self._wait(lambda: self._fit(wanted))
                fresh = {name for name in read if changes[name] == self._changes[name]}
                unread = [name for name in wanted if name not in self._residents and name not in fresh]
                if not unread:
                    return self._leased(rows, self._hold(wanted, read))
                changes |= {name: self._changes[name] for name in unread}
            read |= {name: load(name) for name in unread}

    def _hold(self, wanted: Sequence[str], read: Mapping[str, LoadedAdapter]) -> list[_Resident]:
        """Pin the adapters wanted, first those that are there, so that none of them makes way for another."""
        held: list[_Resident] = []
        try:
            for name in sorted(wanted, key=lambda name: name not in self._residents):
                resident = self._residents.get(name) or self._place(read[name])
                resident.pins += 1
                held.append(resident)
                self._residents.move_to_end(name)
        except BaseException:
            self._release(held)
            raise
        return held

    def _leased(self, rows: Sequence[str | None], held: Sequence[_Resident]) -> Lease:
        by_name = {resident.adapter.name: resident for resident in held}
        slots = [NO_ADAPTER if name is None else by_name[name].slot for name in rows]
        feeds: dict[str, np.ndarray | ort.OrtValue] = {ADAPTER_IDS: np.array(slots, np.int64)}
        for kind, stacked in self._kinds.items():
            # Of a kind that nobody here has, no matrices are copied and multiplied for every row, only to add nothing.
            is_there = any(kind in resident.rows for resident in held)
            feeds |= stacked.values if is_there else stacked.absent
            feeds[table_of(kind)] = self._tables[kind] if is_there else self._no_rows
        adapters = [None if name is None else by_name[name].adapter for name in rows]
        return Lease(feeds, adapters, lambda: self._release(held))

    def _release(self, held: Sequence[_Resident]) -> None:
        with self._changed:
            for resident in held:
                resident.pins -= 1
                if resident.gone:
                    self._free_slot(resident)
            self._changed.notify_all()

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Wait until it is so; the lock is held, and free meanwhile."""
        if not self._changed.wait_for(ready, WAIT_SECONDS):
            raise InputError(
                f"slots: all {self.slots} of the bank are held by runs under way, for {WAIT_SECONDS:.0f} s now; end "
                "generations that nobody reads, or open the session with more slots"
            )

    def _fit(self, wanted: Sequence[str]) -> bool:
        """Whether the adapters wanted and not there find room beside those that are there and those held."""
        missing = sum(name not in self._residents for name in wanted)
        idle = sum(resident.pins == 0 and name not in wanted for name, resident in self._residents.items())
        return missing <= len(self._free) + idle

    def _idle(self) -> str | None:
        return next((name for name, resident in self._residents.items() if resident.pins == 0), None)

    def _place(self, adapter: LoadedAdapter) -> _Resident:
        """Into a free slot, or that of the adapter least recently used; there is one."""
        by_kind: dict[str, dict[str, np.ndarray]] = {}
        for name, tensor in adapter.tensors.items():
            by_kind.setdefault(kind_of(name), {})[name] = tensor
        for kind, tensors in by_kind.items():
            self._kinds[kind].make_room(tensors)  # may fail; nothing below does
        if (old := self._residents.pop(adapter.name, None)) is not None:
            self._retire(old)
        if not self._free:
            oldest = self._idle()
            assert oldest is not None
            self.evictions[oldest] += 1
            self._retire(self._residents.pop(oldest))
        rows = {kind: self._kinds[kind].claim(tensors) for kind, tensors in by_kind.items()}
        slot = self._free.pop()
        for kind, table in self._tables.items():
            table[slot] = rows.get(kind, 0)
        # The bank has the numbers now; what is kept is what they are called.
        resident = _Resident(replace(adapter, tensors={}), slot, rows)
        self._residents[adapter.name] = resident
        self.loads[adapter.name] += 1
        return resident

    def _retire(self, resident: _Resident) -> None:
        """No new lease gets it; its slot is free once the last lease is over."""
        resident.gone = True
        self._free_slot(resident)
        self._changed.notify_all()

    def _free_slot(self, resident: _Resident) -> None:
        if resident.pins == 0:
            for kind, row in resident.rows.items():
                self._kinds[kind].give_back(row)
            self._free.append(resident.slot)


def _by_kind(manifest: Manifest) -> dict[str, dict[str, TensorInfo]]:
    kinds: dict[str, dict[str, TensorInfo]] = {}
    for name, info in manifest.tensors.items():
        kinds.setdefault(kind_of(name), {})[name] = info
    return kinds
