"""Runs an ASGI application for one request, whose messages come from and go to another process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Scope

# What of a request goes to a replica. The rest belongs to the process that has the connection.
_FIELDS = ("http_version", "method", "scheme", "query_string", "headers", "client", "server")


def sendable(scope: Scope, path: str, **facts: Any) -> dict[str, Any]:
    """Returns a request that can be sent to another process.

    Args:
        scope: The request.
        path: Its path in the application.
        facts: What the log of the replica says about it besides.
    """
    kept = {name: scope[name] for name in _FIELDS if name in scope}
    return {"type": "http", "asgi": {"version": "3.0"}, **kept, "path": path, "root_path": "", "adapter_export": facts}


async def messages(app: ASGIApp, scope: dict[str, Any], body: bytes) -> AsyncIterator[list[Message]]:
    """Yields the messages of the response, as many at once as there are.

    When the generator is closed or cancelled, the application is told that the client has gone.

    Args:
        app: The application.
        scope: The request, see `sendable`.
        body: Its complete body.
    """
    made: asyncio.Queue[Message | None] = asyncio.Queue()
    unread = [{"type": "http.request", "body": body, "more_body": False}]
    gone = asyncio.Event()

    async def receive() -> Message:
        if unread:
            return unread.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def run() -> None:
        try:
            await app(dict(scope), receive, made.put)
        finally:
            made.put_nowait(None)

    running = asyncio.ensure_future(run())
    try:
        ended = False
        while not ended:
            found = [await made.get()]
            while not made.empty():
                found.append(made.get_nowait())
            ended = found[-1] is None
            if batch := [message for message in found if message is not None]:
                yield batch
        await running
    finally:
        gone.set()
        running.cancel()


def is_stream(batch: Sequence[Message]) -> bool:
    """Returns whether a response that begins with these messages is a stream of events."""
    headers = dict(batch[0]["headers"])
    content: bytes = headers.get(b"content-type", b"")
    return content.startswith(b"text/event-stream")


def is_complete(batch: Sequence[Message]) -> bool:
    """Returns whether a response ends with these messages."""
    last = batch[-1]
    return last["type"] == "http.response.body" and not last.get("more_body", False)
