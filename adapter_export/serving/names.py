"""The names by which clients choose adapters."""

from __future__ import annotations

from adapter_export.errors import InputError
from adapter_export.runtime.session import AdapterSession
from adapter_export.serving.problems import Problem

# The name of the model without an adapter.
BASE = "base"
# The only version of every model.
VERSION = "1"


def check_names(session: AdapterSession) -> None:
    """Raises InputError if an adapter has the name of the base model."""
    if BASE in session.adapters:
        raise InputError(
            f"bundle {session.bundle}: adapter {BASE!r}: this name is the server's for the model without an adapter; "
            "add the adapter under another name"
        )


def served_names(session: AdapterSession) -> list[str]:
    """Returns the names of all models: that of the base model, unless an adapter is in the graph, and the adapters'."""
    if (info := session.manifest.in_graph) is not None:
        return [info.name]
    return [BASE, *session.adapters]


def adapter_of(session: AdapterSession, name: str, version: str = VERSION) -> str | None:
    """Returns the adapter that a client names; None for the base model.

    Args:
        session: The session.
        name: Name of the model.
        version: Its version.

    Raises:
        Problem: 404, there is no such model.
    """
    if name not in served_names(session) and not session.manifest.mode.in_graph:
        session.reread()  # `add` may have put it into the bundle
    if name not in served_names(session) or version != VERSION:
        raise Problem(404, f"model {name[:200]!r}: not found", param="model")
    return None if name == BASE else name


def refuse_without_labels(session: AdapterSession, name: str, adapter: str | None, labelled: bool) -> None:
    """Raises a Problem if the model has no task head: the base model of a bundle whose adapters bring the heads."""
    if labelled and session.labels(adapter) is None:
        raise Problem(400, f"model {name!r}: has no labels of its own; choose an adapter", param="model")
