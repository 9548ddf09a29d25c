"""What the endpoints of one process share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from adapter_export.serving.engine import Engine
from adapter_export.serving.metrics import Metrics
from adapter_export.serving.repository.board import Repository
from adapter_export.serving.settings import ServerSettings


@dataclass
class Service:
    """A bundle that this process serves.

    Attributes:
        settings: The settings of the server.
        engine: Runs requests.
        metrics: Counts them.
        repository: Loads and unloads adapters in all workers; None if that is not enabled.
        digest: Digest of the bundle's manifest.
        draining: Whether the server is ending.
    """

    settings: ServerSettings
    engine: Engine
    metrics: Metrics
    repository: Repository | None
    digest: str
    draining: bool = False

    @property
    def ready(self) -> bool:
        """Whether the server takes new requests."""
        return not self.draining


def service_of(request: Request) -> Service:
    """Returns the service that answers a request."""
    service: Service = request.app.state.service
    return service


def note(request: Request, **facts: Any) -> None:
    """Adds facts to the line of the log for this request, and to its metrics."""
    request.scope.setdefault("adapter_export", {}).update(facts)
