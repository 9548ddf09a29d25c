"""Servers for tests: in a thread of the test's process, or as the command in a process of its own.

`serving` is a context manager; called as serving(bundle, **settings), it gives a Client of a server in a thread.
`started` likewise runs `adapter-export serve` with arguments, and gives a Client with the process.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapter_export.serving.app import Application
from adapter_export.serving.engine import open_engine
from adapter_export.serving.server import Server, listen
from adapter_export.serving.settings import ServerSettings


@dataclass
class Answer:
    """A response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """What a stream of server-sent events contained, without the mark of its end, which must be there."""
        *events, end, rest = self.body.decode().split("\n\n")
        assert (end, rest) == ("data: [DONE]", "")
        return [json.loads(event.removeprefix("data: ")) for event in events]


@dataclass
class Client:
    """Sends requests to a server."""

    port: int
    application: Application | None = None
    process: subprocess.Popen[str] | None = None
    lines: list[dict[str, Any]] = field(default_factory=list)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def send(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())

    def get(self, path: str, **headers: str) -> Answer:
        return self.send("GET", path, headers=headers)

    def post(self, path: str, content: Any = None, **headers: str) -> Answer:
        return self.send("POST", path, json.dumps(content).encode(), headers)


@contextlib.contextmanager
def serving(bundle: Path, **given: Any) -> Iterator[Client]:
    settings = ServerSettings(bundle=bundle, port=0, **given)
    board = given.get("adapters", bundle).parent / f"board-{os.getpid()}-{time.monotonic_ns()}"
    board.mkdir()
    listening = listen(settings)
    application = Application(settings, open_engine(settings), board)
    server = Server(application, settings)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield Client(listening.getsockname()[1], application)
    finally:
        server.handle_exit(signal.SIGTERM, None)
        thread.join()
        for file in board.iterdir():
            file.unlink()
        board.rmdir()


@contextlib.contextmanager
def started(bundle: Path, *arguments: str, environment: dict[str, str] | None = None) -> Iterator[Client]:
    command = [sys.executable, "-m", "adapter_export", "serve", "--bundle", str(bundle), "--port", "0", *arguments]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {}), "OMP_NUM_THREADS": "1"}
    )
    client = Client(0, process=process)

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            client.lines.append(json.loads(line) if line.startswith("{") else {"message": line.strip()})

    reader = threading.Thread(target=read)
    reader.start()
    try:
        _wait_until_ready(client)
        yield client
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join()
        assert process.stderr is not None
        process.stderr.close()


def _wait_until_ready(client: Client) -> None:
    assert client.process is not None
    end = time.monotonic() + 120
    while client.process.poll() is None and time.monotonic() < end:
        urls = [line["url"] for line in list(client.lines) if "url" in line]
        if urls:
            client.port = int(urls[0].rpartition(":")[2])
            with contextlib.suppress(OSError):
                if client.get("/v2/health/ready").status == 200:
                    return
        time.sleep(0.05)
    raise AssertionError(f"no server: {client.lines}")
