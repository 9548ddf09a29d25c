"""A request that one process reads, and an application in another answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from adapter_export.serving.ray.exchange import is_complete, is_stream, messages, sendable

gone: list[str] = []


async def echo(request: Request) -> Response:
    body = (await request.body()).decode()
    return JSONResponse({"body": body, "query": request.query_params["q"], "header": request.headers["x-own"]})


async def events(request: Request) -> Response:
    async def parts() -> Any:
        try:
            for number in range(3):
                yield f"data: {number}\n\n"
                await asyncio.sleep(0.01)
            if "forever" in request.query_params:
                await asyncio.sleep(60)
        except asyncio.CancelledError:
            gone.append("events")
            raise

    return StreamingResponse(parts(), media_type="text/event-stream")


async def broken(request: Request) -> Response:
    raise ZeroDivisionError


APP = Starlette(routes=[Route("/echo", echo, methods=["POST"]), Route("/events", events), Route("/broken", broken)])


def asked(path: str, query: bytes = b"") -> dict[str, Any]:
    scope = {
        "type": "http",
        "method": "POST" if path == "/echo" else "GET",
        "path": f"/prefix{path}",
        "root_path": "/prefix",
        "query_string": query,
        "headers": [(b"x-own", b"1")],
        "app": object(),
    }
    return sendable(scope, path, attempt=1)


def test_an_answer_comes_as_it_was_made() -> None:
    async def run() -> list[list[Any]]:
        return [batch async for batch in messages(APP, asked("/echo", b"q=2"), b"text")]

    batches = asyncio.run(run())
    found = [message for batch in batches for message in batch]
    assert found[0]["status"] == 200
    assert not is_stream(batches[0])
    assert is_complete(batches[-1])
    assert b"".join(message.get("body", b"") for message in found) == b'{"body":"text","query":"2","header":"1"}'


def test_events_come_one_by_one() -> None:
    async def run() -> list[list[Any]]:
        return [batch async for batch in messages(APP, asked("/events"), b"")]

    batches = asyncio.run(run())
    assert is_stream(batches[0])
    assert not is_complete(batches[0])
    assert len(batches) >= 3
    assert is_complete(batches[-1])


def test_whoever_stops_reading_ends_the_application() -> None:
    async def run() -> None:
        answer = messages(APP, asked("/events", b"forever=1"), b"")
        await answer.__anext__()
        await answer.aclose()
        await asyncio.sleep(0.05)

    gone.clear()
    asyncio.run(run())
    assert gone == ["events"]


def test_an_error_of_the_application_is_raised() -> None:
    async def run() -> None:
        async for _ in messages(APP, asked("/broken"), b""):
            pass

    with pytest.raises(ZeroDivisionError):
        asyncio.run(run())
