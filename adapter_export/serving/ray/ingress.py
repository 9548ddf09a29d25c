"""The ingress: reads requests, and has each answered by a replica that has its adapter, again if that replica ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from ray.exceptions import RayError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.metrics import Counter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from adapter_export.serving.middleware.access import problem_body
from adapter_export.serving.middleware.limits import check_token
from adapter_export.serving.problems import Problem
from adapter_export.serving.ray.arguments import Arguments
from adapter_export.serving.ray.exchange import is_complete, is_stream, sendable
from adapter_export.serving.ray.routing import Adapters, model_of

# How often a request is sent again, to another replica, if its replica ends.
RETRIES = 2
# The header of a response that says how often its request was sent again.
RETRIED = "x-adapter-export-retries"
_ID = "x-request-id"
_MOST_ID = 200
_METRICS = "/metrics"


class Ingress:
    """Forwards each request to a replica, and its response to the client.

    A request is sent again, at most `RETRIES` times, if its replica ends before it has answered. Nothing of a response
    is sent to the client before it is complete, so no client gets half of one; only streams of events are sent as they
    come. A stream whose replica ends is broken off without its end mark, and the client may ask again.
    """

    def __init__(self, arguments: Arguments, replicas: Any) -> None:
        """Makes the ingress.

        Args:
            arguments: What the application was told.
            replicas: The handle of the deployment of replicas.

        Raises:
            InputError: The bundle is none, or the token's file cannot be read.
        """
        token = arguments.settings().token
        self._token = None if token is None else token.encode()
        self._most, self._seconds = arguments.max_body, arguments.seconds
        self._adapters = Adapters(arguments.bundle)
        self._replicas = replicas.options(method_name="answer", stream=True)
        self._retries = Counter(
            "adapter_export_retries", description="Requests that were sent to another replica", tag_keys=("model",)
        )

    async def __call__(self, request: Request) -> Response:
        """Returns the response to a request."""
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        try:
            # Before the body is read. The replica checks the token as well.
            check_token(path, request.headers, self._token)
            if path == _METRICS:
                raise Problem(404, "metrics: Ray has them, at the metrics port of each node")
            return await asyncio.wait_for(self._forwarded(request, path), self._seconds)
        except asyncio.TimeoutError:
            problem = Problem(504, f"no answer within {self._seconds:g} seconds")
        except Problem as error:
            problem = error
        return JSONResponse(problem_body(path, problem), problem.status, problem.headers)

    async def _forwarded(self, request: Request, path: str) -> Response:
        body = await _body(request, self._most)
        name = model_of(path, body)
        # Ray keeps each name that it has seen, so names that clients make up are not told to it.
        adapter = name if name is not None and name in self._adapters else ""
        replicas = self._replicas.options(multiplexed_model_id=adapter)
        identity = request.headers.get(_ID, "")[:_MOST_ID]
        for attempt in range(RETRIES + 1):
            scope = sendable(request.scope, path, request_id=identity, attempt=attempt)
            answer = replicas.remote(scope, body)
            try:
                return Forwarded(await _begun(answer), answer, attempt)
            except BackPressureError:
                raise Problem(429, "too many requests wait") from None
            except DeploymentUnavailableError:
                raise Problem(503, "the server cannot run this now") from None
            except (RayError, ReplicaUnavailableError) as error:
                # These come from the request itself, not from the end of its replica.
                if isinstance(error, RayTaskError | TaskCancelledError):
                    raise
                if attempt < RETRIES:
                    self._retries.inc(tags={"model": adapter})
            except BaseException:
                answer.cancel()
                raise
        problem = Problem(503, f"{RETRIES + 1} replicas ended before they had answered; send the request again")
        problem.headers[RETRIED] = str(RETRIES)
        raise problem


class Forwarded(Response):
    """A response that a replica has made, or begun."""

    def __init__(self, begun: list[Message], rest: Any, retries: int) -> None:
        """Makes the response.

        Args:
            begun: Its first messages.
            rest: Ray's generator of the others.
            retries: How often its request was sent again.
        """
        self._begun, self._rest = begun, rest
        start = begun[0]
        start["headers"] = [*start["headers"], (RETRIED.encode(), str(retries).encode())]
        # What Ray reads of a response, for its own metrics.
        self.status_code, self.background = start["status"], None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the response."""
        try:
            for message in self._begun:
                await send(message)
            async for batch in self._rest:
                for message in batch:
                    await send(message)
        except BaseException:  # the client has gone, or the replica has ended
            self._rest.cancel()
            raise


async def _begun(batches: AsyncIterator[list[Message]]) -> list[Message]:
    """Returns the messages of a complete response, or the first messages of a stream of events."""
    begun: list[Message] = []
    async for batch in batches:
        begun += batch
        if is_stream(begun) or is_complete(begun):
            break
    return begun


async def _body(request: Request, most: int) -> bytes:
    """Returns the body of a request.

    Raises:
        Problem: 413, it is too large.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise Problem(413, f"body: expected at most {most} bytes")
        parts.append(part)
    return b"".join(parts)
