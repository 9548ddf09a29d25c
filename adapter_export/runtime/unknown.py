"""Which adapters of a request a session does not know yet."""

from __future__ import annotations

from adapter_export.errors import InputError
from adapter_export.runtime.adapters.choice import AdapterKey, Composition, names_of
from adapter_export.runtime.session import AdapterSession


def unknown_names(session: AdapterSession, adapter: AdapterKey | None) -> list[str]:
    """Returns the names that the session does not know. They may have been added to the bundle since.

    Args:
        session: The session.
        adapter: The adapter or composition of a request; None for the base model.

    Raises:
        InputError: No run can ever use this adapter.
    """
    try:
        session.labels(adapter)
    except InputError:
        unknown = [name for name in names_of(adapter) if name not in session.adapters] if adapter else []
        if session.manifest.mode.in_graph or (not unknown and isinstance(adapter, Composition)):
            raise
        return unknown
    return []
