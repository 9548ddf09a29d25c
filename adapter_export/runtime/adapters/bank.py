"""The adapters of a bank: many are in memory at once, and each row of a batch can use a different one."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from adapter_export.bundle.bank import NO_ADAPTER, padding_of, rows_table
from adapter_export.bundle.graphs import ADAPTER_IDS
from adapter_export.bundle.manifest import Manifest, TensorInfo
from adapter_export.bundle.no_adapter import no_adapter_tensors
from adapter_export.errors import InputError
from adapter_export.providers import Provider
from adapter_export.runtime.adapters.choice import AdapterKey, Composition, names_of
from adapter_export.runtime.adapters.composer import Composer
from adapter_export.runtime.adapters.loaded import Lease, Load, LoadedAdapter
from adapter_export.runtime.adapters.rows import Rows

if TYPE_CHECKING:
    import onnxruntime as ort

# How long a batch waits for slots that other runs hold.
WAIT_SECONDS = 60.0


@dataclass(eq=False)
class _Occupied:
    """A slot with an adapter, or with a composition.

    Attributes:
        adapter: The adapter, without its tensors, which are in the rows.
        slot: Number of the slot.
        rows: The adapter's row by operator, for those operators that it has tensors of.
        leases: Number of leases that hold the adapter.
        gone: Whether the key of the adapter now belongs to another adapter, or to none.
    """

    adapter: LoadedAdapter
    slot: int
    rows: Mapping[str, int]
    leases: int = 0
    gone: bool = False


class BankLease(Lease):
    """A lease of adapters in a bank.

    Attributes:
        occupied: The slot of each row's adapter; None for the base model.
    """

    occupied: tuple[_Occupied | None, ...] = ()


class BankPool:
    """Up to `slots` adapters, for many threads. An adapter that a lease holds is neither overwritten nor evicted.

    When all slots are taken, the adapter that no lease has used for the longest time is evicted. When leases hold all
    of them, the next lease waits, up to WAIT_SECONDS. An adapter that replaces another of its name gets a slot of its
    own: leases keep the previous version, and the next lease gets the new one. A composition has a slot like any other
    adapter, and is made anew when one of its adapters is replaced.
    """

    def __init__(
        self, manifest: Manifest, no_adapter: Mapping[str, np.ndarray], slots: int, provider: Provider
    ) -> None:
        """Makes an empty bank.

        Args:
            manifest: The manifest of the bundle.
            no_adapter: Tensors of no adapter that are not one repeated value (the base model's own task head).
            slots: How many adapters are in memory at once.
            provider: Where the session runs.

        Raises:
            InputError: `slots` is less than 1.
        """
        if slots < 1:
            raise InputError(f"slots {slots}: expected at least 1")
        self.slots: int | None = slots
        self._slots = slots
        # Reentrant: the garbage collector may release a lease while this thread holds the lock. That only adds free
        # slots.
        self._changed = threading.Condition(threading.RLock())
        self._occupied: OrderedDict[AdapterKey, _Occupied] = OrderedDict()  # least recently used first
        self._free = list(range(slots, 0, -1))
        self.loads: Counter[str] = Counter()
        self.evictions: Counter[str] = Counter()
        self._composer = Composer(manifest)
        defaults = no_adapter_tensors(manifest, no_adapter)
        padding = {
            name: padding_of(site.role, info.shape) for site in manifest.sites for name, info in site.tensors.items()
        }
        self._rows = {
            op_name: Rows(tensors, {name: defaults[name] for name in tensors}, padding, slots, provider)
            for op_name, tensors in _by_operator(manifest).items()
        }
        self._op_names = {name: site.op_name for site in manifest.sites for name in site.tensors}
        # How often each name was put or removed. A file read before the last change is out of date.
        self._changes: Counter[str] = Counter()
        # The entries of a slot are written before any run gets its number, and stay while a run has it.
        self._tables = {op_name: np.zeros(1 + slots, np.int64) for op_name in self._rows}
        self._no_rows = np.zeros(1 + slots, np.int64)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the adapters in memory, alone or in a composition, least recently used first."""
        with self._changed:
            return tuple(dict.fromkeys(name for key in self._occupied for name in names_of(key)))

    @property
    def nbytes(self) -> int:
        """Bytes of the rows in use."""
        with self._changed:
            return sum(rows.used * rows.row_bytes for rows in self._rows.values())

    def get(self, name: str) -> LoadedAdapter | None:
        with self._changed:
            found = self._occupied.get(name)
        return None if found is None else found.adapter

    def put(self, adapter: LoadedAdapter) -> None:
        with self._changed:
            self._wait(lambda: bool(self._free) or self._idle() is not None)
            self._changes[str(adapter.key)] += 1
            self._retire_compositions(str(adapter.key))
            self._place(adapter)

    def remove(self, name: str) -> bool:
        with self._changed:
            self._changes[name] += 1
            known = self._retire_compositions(name)
            if (found := self._occupied.pop(name, None)) is None:
                return known
            self._retire(found)
            return True

    def clear(self) -> None:
        for name in self.names:
            self.remove(name)

    def lease(self, rows: Sequence[AdapterKey | None], load: Load) -> Lease:
        wanted = list(dict.fromkeys(key for key in rows if key is not None))
        if len(wanted) > self._slots:
            raise InputError(f"adapters: {len(wanted)} different ones in a batch, but the bank has {self._slots} slots")
        # Files are read without the lock, so another thread may put or evict the name during the read.
        read: dict[AdapterKey, LoadedAdapter] = {}
        changes: dict[AdapterKey, int] = {}
        while True:
            with self._changed:
                self._wait(lambda: self._fit(wanted))
                fresh = {key for key in read if changes[key] == self._version(key)}
                unread = [key for key in wanted if key not in self._occupied and key not in fresh]
                if not unread:
                    return self._leased(rows, self._hold(wanted, read))
                changes |= {key: self._version(key) for key in unread}
            read |= {key: self._read(key, load) for key in unread}

    def joined(self, leases: Sequence[Lease]) -> Lease:
        rows = [occupied for lease in leases if isinstance(lease, BankLease) for occupied in lease.occupied]
        with self._changed:
            held = list({id(occupied): occupied for occupied in rows if occupied is not None}.values())
            for occupied in held:
                occupied.leases += 1
            return self._lease(rows, held)

    def has_room(self, key: AdapterKey | None) -> bool:
        with self._changed:
            return key is None or self._fit([key])

    def _read(self, key: AdapterKey, load: Load) -> LoadedAdapter:
        parts = [load(name) for name in names_of(key)]
        return self._composer.compose(key, parts) if isinstance(key, Composition) else parts[0]

    def _version(self, key: AdapterKey) -> int:
        """Returns a number that grows whenever the adapter, or one of a composition, is put or removed."""
        return sum(self._changes[name] for name in names_of(key))

    def _hold(self, wanted: Sequence[AdapterKey], read: Mapping[AdapterKey, LoadedAdapter]) -> list[_Occupied]:
        """Takes leases of the adapters, first of those in memory, so that none of them is evicted for another."""
        held: list[_Occupied] = []
        try:
            for key in sorted(wanted, key=lambda key: key not in self._occupied):
                occupied = self._occupied.get(key) or self._place(read[key])
                occupied.leases += 1
                held.append(occupied)
                self._occupied.move_to_end(key)
        except BaseException:
            self._release(held)
            raise
        return held

    def _leased(self, keys: Sequence[AdapterKey | None], held: Sequence[_Occupied]) -> Lease:
        by_key = {occupied.adapter.key: occupied for occupied in held}
        return self._lease([None if key is None else by_key[key] for key in keys], held)

    def _lease(self, rows_of: Sequence[_Occupied | None], held: Sequence[_Occupied]) -> Lease:
        """Returns a lease of these rows. The caller has counted it for those that it holds."""
        slots = [NO_ADAPTER if occupied is None else occupied.slot for occupied in rows_of]
        feeds: dict[str, np.ndarray | ort.OrtValue] = {ADAPTER_IDS: np.array(slots, np.int64)}
        for op_name, rows in self._rows.items():
            # An operator that no row uses gets row 0 alone: no matrices are copied and multiplied to add zeros.
            used = any(op_name in occupied.rows for occupied in held)
            feeds |= rows.values if used else rows.row_zero
            feeds[rows_table(op_name)] = self._tables[op_name] if used else self._no_rows
        adapters = [None if occupied is None else occupied.adapter for occupied in rows_of]
        lease = BankLease(feeds, adapters, lambda: self._release(held))
        lease.occupied = tuple(rows_of)
        return lease

    def _release(self, held: Sequence[_Occupied]) -> None:
        with self._changed:
            for occupied in held:
                occupied.leases -= 1
                if occupied.gone:
                    self._free_slot(occupied)
            self._changed.notify_all()

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Waits until `ready` returns True. The caller holds the lock, which is free while this waits."""
        if not self._changed.wait_for(ready, WAIT_SECONDS):
            raise InputError(
                f"slots: all {self._slots} of the bank are held by runs under way, for {WAIT_SECONDS:.0f} s now; close "
                "generations that are not needed any more, or open the session with more slots"
            )

    def _fit(self, wanted: Sequence[AdapterKey]) -> bool:
        """Returns whether there is room for those of the adapters that are not in memory yet."""
        missing = sum(key not in self._occupied for key in wanted)
        idle = sum(occupied.leases == 0 and key not in wanted for key, occupied in self._occupied.items())
        return missing <= len(self._free) + idle

    def _idle(self) -> AdapterKey | None:
        return next((key for key, occupied in self._occupied.items() if occupied.leases == 0), None)

    def _place(self, adapter: LoadedAdapter) -> _Occupied:
        """Puts the adapter into a free slot, or into that of the adapter used least recently. There is one of both."""
        by_operator: dict[str, dict[str, np.ndarray]] = {}
        for name, tensor in adapter.tensors.items():
            by_operator.setdefault(self._op_names[name], {})[name] = tensor
        for op_name, tensors in by_operator.items():
            self._rows[op_name].make_room(tensors)  # may fail; nothing below does
        if (old := self._occupied.pop(adapter.key, None)) is not None:
            self._retire(old)
        if not self._free:
            oldest = self._idle()
            assert oldest is not None
            self.evictions.update(names_of(oldest))
            self._retire(self._occupied.pop(oldest))
        rows = {op_name: self._rows[op_name].claim(tensors) for op_name, tensors in by_operator.items()}
        slot = self._free.pop()
        for op_name, table in self._tables.items():
            table[slot] = rows.get(op_name, 0)
        # The rows hold the numbers now.
        occupied = _Occupied(replace(adapter, tensors={}), slot, rows)
        self._occupied[adapter.key] = occupied
        self.loads.update(names_of(adapter.key))
        return occupied

    def _retire_compositions(self, name: str) -> bool:
        """Hides the compositions that contain this adapter. Returns whether there was one."""
        found = [key for key in self._occupied if isinstance(key, Composition) and name in key.names]
        for key in found:
            self._retire(self._occupied.pop(key))
        return bool(found)

    def _retire(self, occupied: _Occupied) -> None:
        """Hides the adapter from new leases. Its slot is free when the last lease is released."""
        occupied.gone = True
        self._free_slot(occupied)
        self._changed.notify_all()

    def _free_slot(self, occupied: _Occupied) -> None:
        if occupied.leases == 0:
            for op_name, row in occupied.rows.items():
                self._rows[op_name].give_back(row)
            self._free.append(occupied.slot)


def _by_operator(manifest: Manifest) -> dict[str, dict[str, TensorInfo]]:
    found: dict[str, dict[str, TensorInfo]] = {}
    for site in manifest.sites:
        found.setdefault(site.op_name, {}).update(site.tensors)
    return found
