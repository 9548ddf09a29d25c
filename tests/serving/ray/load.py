"""Clients of a server on a Ray cluster, as threads of one process."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

CLIENTS = 6
# How often a client sends a request again, with the same id.
RETRIES = 2
# Between two requests of a client: the cluster has the rest of the two cores.
PAUSE = 0.05
# A large request takes a replica of the tests some tenths of a second.
LARGE = 96
SETTLED = 120
RETRIED = "x-adapter-export-retries"
ADAPTERS = ("ia3_two", "ia3_three", "houlsby_four", "houlsby_two", "pfeiffer_five")
TEXTS = ("a good movie", "bad", "the dark house was not for me", "the cat sat on a mat")


class Load:
    """Clients that send one request after the other, and the same again if it has no answer.

    `seen` has what became of each request: `retries` counts those of its client and those of the ingress.
    """

    def __init__(self, port: int, adapters: tuple[str, ...]) -> None:
        self.port, self.adapters = port, adapters
        self.seen: list[dict[str, Any]] = []
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._client, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def wait(self, more: int) -> None:
        """Wait until so many more requests have ended."""
        wanted = len(self.seen) + more
        until(lambda: len(self.seen) >= wanted)

    @contextlib.contextmanager
    def large_requests(self, number: int) -> Iterator[None]:
        """Send so many large requests at once, and wait for all of them at the end of the `with` statement."""
        chosen = [(self.adapters[i % len(self.adapters)], TEXTS[i % len(TEXTS)]) for i in range(number)]
        threads = [threading.Thread(target=self._ask, args=(*one, LARGE)) for one in chosen]
        for thread in threads:
            thread.start()
        yield
        for thread in threads:
            thread.join()

    def _client(self, number: int) -> None:
        chosen = random.Random(number)
        while not self._end.wait(PAUSE):
            self._ask(chosen.choice(self.adapters), chosen.choice(TEXTS), 1)

    def _ask(self, adapter: str, text: str, rows: int) -> None:
        identity, began = uuid.uuid4().hex, time.monotonic()
        status, headers, body, failed, by_ingress = 0, {}, {}, [], 0
        for attempt in range(RETRIES + 1):
            # A client that asks again waits a moment: a node that has just ended is still known to others.
            time.sleep(attempt)
            try:
                status, headers, body = infer(self.port, adapter, [text] * rows, identity)
            except (OSError, http.client.HTTPException, ValueError) as error:
                status, headers = 0, {}
                failed.append(repr(error)[:200])
                continue
            by_ingress += int(headers.get(RETRIED, 0))
            if status < 500:
                break
            failed.append(f"{status} {body}"[:200])
        self.seen.append(
            {
                "id": identity,
                "adapter": adapter,
                "text": text,
                "rows": rows,
                "status": status,
                "logits": body["outputs"][0]["data"] if status == 200 else None,
                "failed": failed,
                "by ingress": by_ingress,
                "retries": by_ingress + min(len(failed), RETRIES),
                "same id": headers.get("x-request-id") == identity,
                "seconds": time.monotonic() - began,
            }
        )


def send(
    port: int, method: str, path: str, content: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], Any]:
    """Send a request on a connection of its own. Returns status, headers with names in small letters, and body."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request(method, path, None if content is None else json.dumps(content), headers or {})
        response = connection.getresponse()
        text = response.read().decode()
        found = {name.lower(): value for name, value in response.getheaders()}
        return response.status, found, json.loads(text) if text[:1] in "{[" else text


def infer(port: int, adapter: str, texts: Sequence[str], identity: str = "0") -> tuple[int, dict[str, str], Any]:
    content = {"inputs": [{"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": list(texts)}]}
    return send(port, "POST", f"/v2/models/{adapter}/infer", content, {"x-request-id": identity})


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + SETTLED
    while not true():
        if time.monotonic() > end:
            raise TimeoutError("not within the time")
        time.sleep(0.1)
