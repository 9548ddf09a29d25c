"""Waits for an answer as long as there is a client for it, and time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from adapter_export.serving.problems import ClientGone, Problem

T = TypeVar("T")


async def unless_gone(request: Request, work: Coroutine[Any, Any, T], seconds: float) -> T:
    """Returns the result of `work`. It is cancelled if the client goes away, or if it takes too long.

    Args:
        request: The request, whose body has been read.
        work: What makes the answer.
        seconds: The most time that it may take.

    Raises:
        ClientGone: The client has closed its connection.
        Problem: 504, the time is over.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise ClientGone
        raise Problem(504, f"no answer within {seconds:g} seconds")
    finally:
        task.cancel()
        gone.cancel()


async def within(parts: AsyncIterator[T], seconds: float) -> AsyncIterator[T]:
    """Yields the parts of a stream, as long as there is time.

    Args:
        parts: The parts.
        seconds: The most time for all of them.

    Raises:
        Problem: 504, the time is over.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            part = await asyncio.wait_for(anext(parts), end - time.monotonic())
        except StopAsyncIteration:
            return
        except asyncio.TimeoutError:
            raise Problem(504, f"not finished within {seconds:g} seconds") from None
        yield part


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
