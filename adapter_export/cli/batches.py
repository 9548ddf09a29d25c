"""Chooses which requests of `adapter-export run` form a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adapter_export.runtime.session import AdapterSession

# Largest number of requests in a batch.
BATCH = 16


def batches(session: AdapterSession, adapters: Sequence[str | None], size: int = BATCH) -> Iterator[list[int]]:
    """Yields the indices of the requests of each batch.

    In mode bank, a batch has any requests, at most as many as there are slots. In other modes, it has requests of one
    adapter.

    Args:
        session: The session that runs the batches.
        adapters: The adapter of each request; None for the base model.
        size: Largest number of requests in a batch.
    """
    every = range(len(adapters))
    if session.slots is not None:
        groups = [list(every)]
        size = min(size, session.slots)
    else:
        groups = [[index for index in every if adapters[index] == name] for name in dict.fromkeys(adapters)]
    for group in groups:
        for start in range(0, len(group), size):
            yield group[start : start + size]


def ran_with(session: AdapterSession, adapter: str | None) -> str | None:
    """Returns the adapter that a run uses for a request. In modes merged and embedded, it is the one in the graph."""
    own = session.manifest.in_graph
    return adapter or (own.name if own else None)
