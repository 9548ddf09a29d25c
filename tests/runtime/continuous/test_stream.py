"""Streams of tokens: what a reader gets, whoever is first, and after each kind of end."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from adapter_export.runtime.continuous.stream import NewToken, TokenStream

TOKENS = [NewToken(4, None), NewToken(5, None), NewToken(6, "length")]


def test_what_was_pushed_before_and_after_the_reader_came() -> None:
    stream = TokenStream(3)
    stream.push(TOKENS[0])

    def write() -> None:
        for new in TOKENS[1:]:
            time.sleep(0.02)
            stream.push(new)

    thread = threading.Thread(target=write)
    thread.start()
    assert list(stream) == TOKENS
    assert list(stream) == []
    thread.join()


def test_asyncio() -> None:
    async def main() -> list[NewToken]:
        stream = TokenStream(1)
        threading.Timer(0.02, lambda: [stream.push(new) for new in TOKENS]).start()
        return [new async for new in stream]

    assert asyncio.run(main()) == TOKENS


def test_a_reader_that_gives_up_loses_no_token() -> None:
    async def main() -> list[NewToken]:
        stream = TokenStream(1)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(stream.__anext__(), 0.01)
        for new in TOKENS:
            stream.push(new)
        return [new async for new in stream]

    assert asyncio.run(main()) == TOKENS


def test_an_error_comes_after_the_tokens_and_stays() -> None:
    stream = TokenStream(1)
    stream.push(TOKENS[0])
    stream.end(ValueError("broken"))
    stream.push(TOKENS[1])
    assert next(stream) == TOKENS[0]
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            next(stream)


def test_closing_drops_what_was_not_read_and_tells_once() -> None:
    told: list[int] = []
    stream = TokenStream(1, lambda: told.append(1))
    stream.push(TOKENS[0])
    stream.close()
    stream.close()
    stream.push(TOKENS[1])
    assert (list(stream), told, stream.closed) == ([], [1], True)


def test_closing_wakes_a_reader_that_waits() -> None:
    stream = TokenStream(1)
    threading.Timer(0.02, stream.close).start()
    assert list(stream) == []
