"""The adapters of one open session, by name: those of the bundle, and files from outside of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from adapter_export.bundle.manifest import Manifest
from adapter_export.bundle.modes import Mode
from adapter_export.checkpoints.problem_types import meaning
from adapter_export.errors import InputError
from adapter_export.providers import Provider
from adapter_export.runtime.adapters.choice import AdapterKey, head_among, names_of
from adapter_export.runtime.adapters.loaded import Lease, LoadedAdapter
from adapter_export.runtime.adapters.pool import open_pool
from adapter_export.runtime.adapters.source import BundleAdapters
from adapter_export.runtime.adapters.usage import AdapterStatistics, Usage


class SessionAdapters:
    """Reads adapters when they are needed, keeps them in memory, and counts their use. For many threads."""

    def __init__(
        self, source: BundleAdapters, no_adapter: Mapping[str, np.ndarray], provider: Provider, slots: int | None
    ) -> None:
        """Makes the object without any adapter in memory.

        Args:
            source: Reads adapters of the bundle and other files.
            no_adapter: Tensors of no adapter that are not in the graph, see `bundle_checks.read_no_adapter`.
            provider: Where the session runs.
            slots: In mode bank, how many adapters are in memory at once; None for the manifest's number.

        Raises:
            InputError: `slots` is less than 1.
        """
        self._source = source
        self._pool = open_pool(source.manifest, no_adapter, provider, slots)
        # Files from outside of the bundle. A bank may have to read one again.
        self._foreign: dict[str, Path] = {}
        self._usage = Usage()

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest as it was last read."""
        return self._source.manifest

    @property
    def names(self) -> tuple[str, ...]:
        """Names that a run accepts: the bundle's adapters, then those of other files."""
        own = tuple(info.name for info in self.manifest.adapters)
        return (*own, *(name for name in self._foreign if name not in own))

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the adapters in memory."""
        return self._pool.names

    @property
    def slots(self) -> int | None:
        """How many different adapters fit in a bank; None in other modes."""
        return self._pool.slots

    @property
    def nbytes(self) -> int:
        """Bytes of the adapters in memory."""
        return self._pool.nbytes

    def labels(self, key: AdapterKey | None) -> tuple[str, ...] | None:
        """Returns the class names of the outputs with an adapter or a composition; None for no classes.

        Args:
            key: The adapter or composition; None for the base model.

        Raises:
            InputError: An adapter is unknown, or it is not clear whose task head a composition has.
        """
        if self.manifest.in_graph:
            return self._pool.lease([key], self._read).labels_of(0) or self.manifest.labels
        if key is None:
            return self.manifest.labels
        own = {name: self._own_labels(name) for name in names_of(key)}
        head = head_among(key, {name: labels is not None for name, labels in own.items()})
        return (None if head is None else own[head]) or self.manifest.labels

    def problem_type(self, key: AdapterKey | None) -> str | None:
        """Returns what the outputs with an adapter or a composition mean; None if they are not labels.

        Args:
            key: The adapter or composition; None for the base model.

        Raises:
            InputError: As for `labels`.
        """
        if (labels := self.labels(key)) is None:
            return None
        manifest = self.manifest
        if (info := manifest.in_graph) is None and key is not None:
            name = head_among(key, {name: self._own_labels(name) is not None for name in names_of(key)})
            if name in self._foreign:
                return meaning(None, len(labels))
            info = next((info for info in manifest.adapters if info.name == name), None)
        # The outputs of an adapter without a head are those of the base model's head.
        has_head = info is not None and info.labels is not None
        return meaning(info.problem_type if info is not None and has_head else manifest.problem_type, len(labels))

    def load(self, name: str, path: Path | None) -> None:
        """Loads an adapter of the bundle, or of a file from outside of it; see `AdapterSession.load`."""
        self.refuse_in_graph()
        if path is None:
            self._pool.put(self._source.read(name))
            return
        self._pool.put(self._source.read_foreign(name, path))
        self._foreign[name] = path

    def unload(self, name: str) -> None:
        """Removes an adapter from memory; see `AdapterSession.unload`."""
        self.refuse_in_graph()
        self._foreign.pop(name, None)
        if not self._pool.remove(name):
            raise InputError(f"adapter {name!r}: not loaded (loaded: {', '.join(self._pool.names) or 'none'})")

    def reread(self) -> Manifest:
        """Reads the bundle's manifest again if it has changed, and returns it; see `AdapterSession.reread`."""
        self.refuse_in_graph()
        return self._source.reread()

    def lease(self, rows: Sequence[AdapterKey | None]) -> Lease:
        """Returns the adapters of a batch, and counts them.

        Args:
            rows: The adapter or composition of each row; None for the base model.

        Raises:
            InputError: An adapter is unknown, or they cannot be in one batch, or not be composed.
        """
        lease = self._pool.lease(rows, self._read)
        self._usage.count(rows)
        return lease

    def joined(self, leases: Sequence[Lease]) -> Lease:
        """Returns one lease of the rows of several leases; see `AdapterPool.joined`."""
        return self._pool.joined(leases)

    def has_room(self, key: AdapterKey | None) -> bool:
        """Returns whether a lease of this adapter would not have to wait; see `AdapterPool.has_room`."""
        return self._pool.has_room(key)

    def statistics(self) -> dict[str | None, AdapterStatistics]:
        """Returns how often each adapter was used and loaded; None is the base model."""
        return self._usage.statistics(self._pool.loads, self._pool.evictions)

    def clear(self) -> None:
        """Removes all adapters from memory."""
        self._pool.clear()

    def refuse_in_graph(self) -> None:
        """Raises InputError if the graph takes no adapters (modes merged and embedded)."""
        if self.manifest.mode.in_graph:
            takers = " and ".join(map(repr, Mode.that_take_adapters()))
            raise InputError(
                f"bundle {self._source.bundle}: mode {self.manifest.mode!r} takes no adapter into its graph; only "
                f"{takers} load and unload"
            )

    def _own_labels(self, name: str) -> tuple[str, ...] | None:
        """Returns the class names of an adapter's own task head; None if it has none."""
        loaded = self._pool.get(name)
        if loaded is None and name in self._foreign:
            loaded = self._read(name)
        return self.manifest.adapter(name).labels if loaded is None else loaded.labels

    def _read(self, name: str) -> LoadedAdapter:
        path = self._foreign.get(name)
        return self._source.read(name) if path is None else self._source.read_foreign(name, path)
