"""Clients in a process of their own: each sends one request after the other over one connection.

    python -m benchmarks.server.clients < JOB > RESULT

The job and the result are JSON: see `Job` and `run`.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Job:
    """What the clients do.

    Attributes:
        port: Port of the server.
        requests: Pairs of path and body.
        clients: Number of clients.
        seconds: How long they send.
        once: Whether each request is sent once, in place of `seconds`.
        retries: How often a request without an answer is sent again.
    """

    port: int
    requests: Sequence[tuple[str, str]]
    clients: int
    seconds: float = 0.0
    once: bool = False
    retries: int = 0


@dataclass
class Result:
    """What came back.

    Attributes:
        answers: Triples of the number of the request, the seconds, and the body of the answer.
        failed: What was wrong with each request that has no answer.
        retried: Number of requests that were sent again.
        seconds: How long all of it took.
    """

    answers: list[tuple[int, float, str]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    retried: int = 0
    seconds: float = 0.0


def send(job: Job) -> Result:
    """Runs the job in a process of its own, so that clients and server do not share an interpreter."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.server.clients"],
        input=json.dumps(asdict(job)),
        capture_output=True,
        text=True,
        check=True,
    )
    return Result(**json.loads(done.stdout))


def run(job: Job) -> Result:
    result, lock = Result(), threading.Lock()
    numbers = iter(range(len(job.requests))) if job.once else iter(range(10**9))
    began = time.monotonic()

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", job.port, timeout=600)
        while job.once or time.monotonic() < began + job.seconds:
            with lock:
                number = next(numbers, None)
            if number is None:
                break
            number %= len(job.requests)
            asked = time.perf_counter()
            status, text, retried = _ask(connection, *job.requests[number], job.retries)
            with lock:
                result.retried += retried
                if status == 200:
                    result.answers.append((number, time.perf_counter() - asked, text))
                else:
                    result.failed.append(f"{status} {text[:200]}")
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(job.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result.seconds = time.monotonic() - began
    return result


def _ask(connection: http.client.HTTPConnection, path: str, body: str, retries: int) -> tuple[int, str, int]:
    """Returns the status, the body, and how often the request was sent again."""
    for attempt in range(retries + 1):
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            status, text = response.status, response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            status, text = 0, repr(error)
        # 503: the worker is ending.
        if status not in (0, 503) or attempt == retries:
            return status, text, attempt
        time.sleep(0.05 * (attempt + 1))
    raise AssertionError("unreachable")


def main() -> None:
    given: dict[str, Any] = json.loads(sys.stdin.read())
    json.dump(asdict(run(Job(**given))), sys.stdout)


if __name__ == "__main__":
    main()
