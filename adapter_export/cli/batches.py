"""Which requests of `adapter-export run` share a run of the graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adapter_export.runtime.session import AdapterSession

# Requests in one run of the graph.
BATCH = 16


def batches(session: AdapterSession, adapters: Sequence[str | None], size: int = BATCH) -> Iterator[list[int]]:
    """Indices of requests that run together: in a bank any, as many as it has slots; else those of one adapter."""
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
    """The adapter that runs when `adapter` is asked for: in modes merged and embedded the one in the graph."""
    own = session.manifest.in_graph
    return adapter or (own.name if own else None)
