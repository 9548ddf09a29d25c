"""A replica: a process with an open bundle, which answers requests as a server's process does."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator
from typing import Any

from ray import serve

from adapter_export.serving.app import Application
from adapter_export.serving.engine import open_engine
from adapter_export.serving.middleware.access import JsonLines
from adapter_export.serving.ray.arguments import Arguments
from adapter_export.serving.ray.exchange import messages

_NO_LIMIT = -1


class Replica:
    """Answers requests with one session, in which all adapters share batches."""

    def __init__(self, arguments: Arguments) -> None:
        """Opens the bundle.

        Args:
            arguments: What the application was told.

        Raises:
            InputError: The bundle is broken, or cannot be served.
            ProviderError: The session would run on another provider than the requested one.
        """
        _log_to_stderr()
        settings = arguments.settings()
        self._engine = open_engine(settings)
        # Only servers whose workers load adapters over HTTP share a folder.
        self._application = Application(settings, self._engine, settings.bundle)
        # Tells Ray which adapters this replica has used last, so that it sends requests for them here.
        self._use = serve.multiplexed(max_num_models_per_replica=self._engine.session.slots or _NO_LIMIT)(_use)

    async def answer(self, scope: dict[str, Any], body: bytes) -> AsyncIterator[list[Any]]:
        """Yields the messages of the response to a request, see `exchange.messages`.

        Args:
            scope: The request.
            body: Its complete body.
        """
        if name := serve.get_multiplexed_model_id():
            await self._use(name)
        async for batch in messages(self._application, scope, body):
            yield batch

    def __del__(self) -> None:
        """Ray calls this when all requests have ended."""
        if engine := getattr(self, "_engine", None):
            engine.close()


async def _use(name: str) -> str:
    # The session itself loads the adapter with its first run, and removes the adapter that was not used for longest.
    return name


def _log_to_stderr() -> None:
    """Writes the log of the server to stderr, which Ray keeps for each process."""
    log = logging.getLogger("adapter_export")
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonLines())
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
