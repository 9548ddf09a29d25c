"""Refuses requests without the token, and bodies that are too large or too slow."""

from __future__ import annotations

import asyncio
import hmac
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapter_export.serving.problems import Problem

# Orchestrators ask these without a token.
_OPEN = frozenset({"/v2/health/live", "/v2/health/ready"})


def check_token(path: str, headers: Headers, expected: bytes | None) -> None:
    """Checks that a request has the bearer token, if it needs one.

    Args:
        path: The path of the request.
        headers: Its headers.
        expected: The token; None if requests need none.

    Raises:
        Problem: 401, it has another token or none.
    """
    if expected is None or path in _OPEN:
        return
    scheme, _, found = headers.get("authorization", "").partition(" ")
    # Compared in constant time, so that its duration tells nothing about the token.
    same = hmac.compare_digest(found.strip().encode("latin-1"), expected)
    if scheme.lower() != "bearer" or not same:
        problem = Problem(401, "expected the header 'Authorization: Bearer TOKEN' with the server's token")
        problem.headers["www-authenticate"] = "Bearer"
        raise problem


class Token:
    """Refuses requests that do not have the bearer token. Health checks need none."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        """Wraps the application.

        Args:
            app: The layers inside.
            token: The token; None if requests need none.
        """
        self._app = app
        self._expected = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            check_token(scope["path"], Headers(scope=scope), self._expected)
        await self._app(scope, receive, send)


class BodyLimit:
    """Refuses bodies above a number of bytes, before they are in memory, and bodies that take too long."""

    def __init__(self, app: ASGIApp, most: int, seconds: float) -> None:
        """Wraps the application.

        Args:
            app: The layers inside.
            most: Largest number of bytes.
            seconds: Most time from the head of a request to the end of its body.
        """
        self._app, self._most, self._seconds = app, most, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if headers.get("content-encoding", "identity") != "identity":
            raise Problem(415, "content-encoding: expected none, as bodies are not decompressed here")
        stated = headers.get("content-length", "0")
        if stated.isascii() and stated.isdigit() and int(stated) > self._most:
            raise self._too_large()
        size, end, complete = 0, time.monotonic() + self._seconds, False

        async def counted() -> Message:
            nonlocal size, complete
            if complete:  # whoever waits now waits for the client to go away
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), end - time.monotonic())
            except asyncio.TimeoutError:
                raise Problem(408, f"body: not complete within {self._seconds:g} seconds") from None
            complete = not message.get("more_body", False)
            size += len(message.get("body", b""))
            if size > self._most:
                raise self._too_large()
            return message

        await self._app(scope, counted, send)

    def _too_large(self) -> Problem:
        return Problem(413, f"body: expected at most {self._most} bytes")
