"""Serves with one process or several. One that ends by accident is started again."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from adapter_export.errors import AdapterExportError, InputError
from adapter_export.serving.metrics import SHARED_FOLDER
from adapter_export.serving.server import listen, log_to_stderr, run_worker
from adapter_export.serving.settings import ServerSettings

log = logging.getLogger("adapter_export.serving")

# A worker that ends is started again after this time, so that one that always ends takes no processor.
_RESTART_SECONDS = 1.0
_BAD_INPUT = 2


def serve(settings: ServerSettings) -> None:
    """Serves a bundle until SIGTERM or SIGINT.

    Args:
        settings: The settings of the server.

    Raises:
        InputError: The bundle cannot be served, or the address cannot be listened on.
        ProviderError: The session would run on another provider than the requested one.
    """
    log_to_stderr()
    with (
        tempfile.TemporaryDirectory(prefix="adapter-export-", ignore_cleanup_errors=True) as folder,
        listen(settings) as listening,
    ):
        if settings.workers == 1:
            run_worker(settings, listening, Path(folder))
        else:
            # Each worker reads this when it is started.
            os.environ[SHARED_FOLDER] = folder
            _Workers(settings, listening, Path(folder)).run()


class _Workers:
    """The processes of a server."""

    def __init__(self, settings: ServerSettings, listening: socket.socket, board: Path) -> None:
        self._settings, self._listening, self._board = settings, listening, board
        # A fork would not have ONNX Runtime's threads.
        self._context = multiprocessing.get_context("spawn")
        self._running: list[tuple[BaseProcess, Connection]] = []
        self._ending = False
        # Whether a worker has ever opened the bundle.
        self._opened = False

    def run(self) -> None:
        """Starts the workers, and returns when they have ended after a signal."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        for _ in range(self._settings.workers):
            self._start()
        while self._running:
            wait([process.sentinel for process, _ in self._running], timeout=0.5)
            self._opened = self._opened or any(_has_started(started) for _, started in self._running)
            for process, started in list(self._running):
                if not process.is_alive():
                    self._running.remove((process, started))
                    self._ended(process)

    def _start(self) -> None:
        reading, writing = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_work, args=(self._settings, self._listening, self._board, writing))
        process.start()
        writing.close()
        self._running.append((process, reading))

    def _ended(self, process: BaseProcess) -> None:
        process.join()
        if self._ending:
            return
        if not self._opened:
            self._end()
            raise InputError(f"a worker could not start (exit code {process.exitcode})")
        log.error("worker ended", extra={"facts": {"pid": process.pid, "exit_code": process.exitcode}})
        time.sleep(_RESTART_SECONDS)
        if not self._ending:
            self._start()

    def _end(self, *_: object) -> None:
        self._ending = True
        for process, _started in self._running:
            if process.is_alive():
                process.terminate()


def _has_started(started: Connection) -> bool:
    """Returns whether a worker has said that it has opened the bundle. It says so once."""
    try:
        return started.poll() and bool(started.recv())
    except EOFError:
        return False


def _work(settings: ServerSettings, listening: socket.socket, board: Path, started: Connection) -> None:
    """What a worker's process does."""
    log_to_stderr()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        run_worker(settings, listening, board, on_open=lambda: started.send(True))
    except AdapterExportError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(_BAD_INPUT)


def _end_with_parent() -> None:
    """Ends this worker if the process that started it is gone. It would keep the port, and nobody would end it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
