"""The application that answers requests: endpoints, and the layers around them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from adapter_export.outputs.ownership import MANIFEST
from adapter_export.reading.hashes import sha256
from adapter_export.serving.engine import Engine
from adapter_export.serving.inference.routes import ROUTES as INFERENCE
from adapter_export.serving.metrics import Metrics
from adapter_export.serving.middleware.access import Access
from adapter_export.serving.middleware.limits import BodyLimit, Token
from adapter_export.serving.openai.routes import ROUTES as OPENAI
from adapter_export.serving.problems import Problem
from adapter_export.serving.repository.board import Repository
from adapter_export.serving.repository.routes import ROUTES as REPOSITORY
from adapter_export.serving.service import Service, service_of
from adapter_export.serving.settings import ServerSettings

log = logging.getLogger("adapter_export.serving")

# How often the counts of the engine are taken over.
_METRICS_SECONDS = 1.0


async def metrics(request: Request) -> Response:
    """Returns the metrics in Prometheus' format."""
    service = service_of(request)
    service.metrics.update(service.engine, ready=service.ready)
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


ROUTES = [*INFERENCE, *REPOSITORY, *OPENAI, Route("/metrics", metrics)]


class Application:
    """The ASGI application of one process. It closes the engine at its end.

    Attributes:
        service: What its endpoints share.
    """

    def __init__(self, settings: ServerSettings, engine: Engine, board: Path) -> None:
        """Makes the application.

        Args:
            settings: The settings of the server.
            engine: The open bundle.
            board: A folder that the workers of the server share.
        """
        folder = settings.adapters
        repository = None if folder is None else Repository(engine.session, folder, board)
        self.service = Service(settings, engine, Metrics(), repository, sha256(settings.bundle / MANIFEST))
        self._app = Starlette(
            routes=ROUTES,
            middleware=[
                Middleware(Access, self.service, ROUTES),
                Middleware(Token, settings.token),
                Middleware(BodyLimit, settings.max_body, settings.seconds),
            ],
            exception_handlers={HTTPException: _no_endpoint},
            lifespan=self._lifespan,
        )
        self._app.state.service = self.service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        await self._app(scope, receive, send)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        service = self.service
        tasks = [asyncio.ensure_future(_counting(service))]
        if service.repository is not None:
            tasks.append(asyncio.ensure_future(service.repository.follow()))
        try:
            yield
        finally:
            service.draining = True
            for task in tasks:
                task.cancel()
            await asyncio.to_thread(service.engine.close)


async def _counting(service: Service) -> None:
    """Takes over the counts of the engine until it is cancelled, so that other workers can report them."""
    while True:
        try:
            service.metrics.update(service.engine, ready=service.ready)
        except Exception:  # a bug; the next round may succeed
            log.exception("metrics: they go on")
        await asyncio.sleep(_METRICS_SECONDS)


async def _no_endpoint(request: Request, error: Exception) -> Response:
    """Turns errors of the router, such as an unknown path, into a problem."""
    assert isinstance(error, HTTPException)
    raise Problem(error.status_code, f"{request.method} {request.url.path[:200]}: {error.detail}")
