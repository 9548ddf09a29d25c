"""Runs the application in one process, until it is told to end."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn

from adapter_export.errors import InputError
from adapter_export.serving.app import Application
from adapter_export.serving.engine import open_engine
from adapter_export.serving.middleware.access import JsonLines
from adapter_export.serving.settings import ServerSettings

log = logging.getLogger("adapter_export.serving")

_BACKLOG = 2048
# How long requests that are being answered may take after the server has begun to end, besides their own limit.
_GRACE_SECONDS = 5


class Server(uvicorn.Server):
    """A worker that says it is not ready before it ends.

    At the first SIGTERM or SIGINT, readiness fails, and new requests are taken for `drain_seconds` more. Then no
    connection is accepted, and the requests that are being answered finish. A second SIGINT ends them. The process
    exits with 0.
    """

    def __init__(self, application: Application, settings: ServerSettings) -> None:
        """Prepares the worker.

        Args:
            application: The application.
            settings: The settings of the server.
        """
        self._application, self._drain_seconds = application, settings.drain_seconds
        self._end: float | None = None
        super().__init__(
            uvicorn.Config(
                application,
                log_config=None,
                access_log=False,
                lifespan="on",
                timeout_graceful_shutdown=int(settings.seconds) + _GRACE_SECONDS,
                server_header=False,
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins to end, as uvicorn's server does for each signal."""
        if self._end is None:
            self._application.service.draining = True
            self._end = time.monotonic() + self._drain_seconds
        else:
            self._end = 0.0
            self.force_exit = sig == signal.SIGINT

    async def on_tick(self, counter: int) -> bool:
        """Ends the server when its time has come. uvicorn's server calls this ten times a second."""
        if self._end is not None and time.monotonic() >= self._end:
            self.should_exit = True
        return await super().on_tick(counter)


def run_worker(
    settings: ServerSettings, listening: socket.socket, board: Path, on_open: Callable[[], None] = lambda: None
) -> None:
    """Serves until a signal ends it.

    Args:
        settings: The settings of the server.
        listening: The socket to accept connections from.
        board: A folder that the workers of the server share.
        on_open: Called when the bundle is open.

    Raises:
        InputError: The bundle is broken, or cannot be served.
        ProviderError: The session would run on another provider than the requested one.
    """
    application = Application(settings, open_engine(settings), board)
    on_open()
    Server(application, settings).run([listening])


def listen(settings: ServerSettings) -> socket.socket:
    """Returns a socket that listens on the address of the settings, and logs it.

    Raises:
        InputError: The address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host, settings.port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise InputError(f"{settings.host}:{settings.port}: cannot listen there: {error.strerror}") from None
    listening.set_inheritable(True)
    host = f"[{settings.host}]" if family == socket.AF_INET6 else settings.host
    log.info("listening", extra={"facts": {"url": f"http://{host}:{listening.getsockname()[1]}"}})
    return listening


def log_to_stderr() -> None:
    """Writes the log of this process to stderr, a line of JSON for each record."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
