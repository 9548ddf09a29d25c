"""Chooses which requests of `adapter-export run` form a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapter_export.runtime.adapters.choice import AdapterKey
    from adapter_export.runtime.session import AdapterSession

# Largest number of requests in a batch.
BATCH = 16


def batches(session: AdapterSession, adapters: Sequence[AdapterKey | None], size: int = BATCH) -> Iterator[list[int]]:
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


def ran_with(session: AdapterSession, adapter: AdapterKey | None) -> dict[str, Any]:
    """Returns what a result says about its adapter.

    Args:
        session: The session.
        adapter: The adapter or composition; None for the base model.

    Returns:
        `adapter`: its name, or the strengths of a composition by name; None for the base model. In modes merged and
        embedded, it is the adapter in the graph. `head`, if a composition names one.
    """
    if isinstance(adapter, str) or adapter is None:
        own = session.manifest.in_graph
        return {"adapter": adapter or (own.name if own else None)}
    return {"adapter": dict(adapter.parts)} | ({} if adapter.head is None else {"head": adapter.head})


def named(result: Mapping[str, Any]) -> str:
    """Returns the adapter of a result as text, empty for the base model. See `ran_with`."""
    adapter = result["adapter"]
    if isinstance(adapter, dict):
        return ",".join(f"{name}={strength:g}" for name, strength in adapter.items())
    return adapter or ""
