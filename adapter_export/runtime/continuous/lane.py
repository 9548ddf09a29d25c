"""Rows that decode together: one run of the graph gives each of them one token."""

from __future__ import annotations

import numpy as np

from adapter_export.bundle.manifest import Manifest
from adapter_export.runtime.continuous.caches import BatchCache, ConcatenatedCache, SharedCache
from adapter_export.runtime.continuous.row import Row
from adapter_export.runtime.session import AdapterSession


class Lane:
    """A batch of rows whose adapters can share a run: in mode bank any rows, else those of one adapter."""

    def __init__(self, session: AdapterSession) -> None:
        """Makes a lane without rows.

        Args:
            session: The session that runs them.
        """
        self._session = session
        self._cache = new_cache(session.manifest)
        # As the cache has them.
        self._rows: list[Row] = []
        self._joining: list[Row] = []
        self._left: list[Row] = []

    @property
    def rows(self) -> list[Row]:
        """The rows that decode: those that have not ended or left."""
        return [*filter(self._stays, self._rows), *(row for row in self._joining if not row.ended)]

    def join(self, row: Row) -> None:
        """Adds a row whose tokens, but the last, have been read."""
        self._joining.append(row)

    def step(self) -> int:
        """Gives every row its next token, and returns the number of rows. An error ends all of them."""
        try:
            return self._step()
        except Exception as error:  # of any kind: it is the result of these rows
            found = self.rows
            for row in found:
                row.fail(error)
            self._rows, self._joining, self._left = [], [], []
            self._cache = new_cache(self._session.manifest)
            return 0

    def leave(self, row: Row) -> None:
        """Removes a row, which is read again elsewhere."""
        self._left.append(row)

    def _step(self) -> int:
        if self._joining or not all(map(self._stays, self._rows)):
            self._arrange()
        if not self._rows:
            return 0
        ids = np.array([row.unread for row in self._rows], np.int64)
        logits = self._cache.run(ids)
        for row, found in zip(self._rows, logits, strict=True):
            row.read += 1
            row.choose(found)
        return len(self._rows)

    def _stays(self, row: Row) -> bool:
        """Returns whether a row keeps its place in the cache."""
        return not row.ended and row not in self._left

    def _arrange(self) -> None:
        """Brings the cache to the rows that decode from now on."""
        keep = [number for number, row in enumerate(self._rows) if self._stays(row)]
        # A row may have left and come back.
        joining = [row for row in self._joining if not row.ended]
        rows = [*(self._rows[number] for number in keep), *joining]
        leases = [row.lease for row in rows if row.lease is not None]
        if rows:
            graph = self._session.bound_to(self._session.manifest.model, self._session.joined(leases))
            self._cache.change(graph, keep, [row.cache for row in joining])
        else:
            self._cache = new_cache(self._session.manifest)
        for row in joining:
            row.cache = {}
        self._rows, self._joining, self._left = rows, [], []


def new_cache(manifest: Manifest) -> BatchCache:
    """Returns a cache without rows for the decoder of a bundle."""
    info = manifest.graphs[manifest.model]
    return SharedCache(info) if manifest.right_padded else ConcatenatedCache(info)


def read_prompt(session: AdapterSession, row: Row, most: int | None) -> bool:
    """Feeds the next tokens of a row alone, and returns whether a new token was chosen: after all of them.

    Args:
        session: The session.
        row: The row, with its lease.
        most: Largest number of tokens to feed; None for all.
    """
    assert row.lease is not None
    cache = new_cache(session.manifest)
    cache.change(session.bound_to(session.manifest.model, row.lease), [], [row.cache])
    ids = row.unread[:most]
    logits = cache.run(np.array([ids], np.int64))
    row.read += len(ids)
    row.cache = cache.row(0)
    if row.unread:
        return False
    row.choose(logits[0])
    return True
