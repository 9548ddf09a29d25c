"""Waiting for parts of a stream: as long as there is time, whether parts come or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from adapter_export.serving.problems import Problem
from adapter_export.serving.waiting import within


async def counting(pause: float) -> AsyncIterator[int]:
    for number in range(3):
        await asyncio.sleep(pause)
        yield number


def test_parts_in_time() -> None:
    async def main() -> list[int]:
        return [part async for part in within(counting(0.0), 60)]

    assert asyncio.run(main()) == [0, 1, 2]


def test_a_stream_without_parts_ends() -> None:
    ended: list[str] = []

    async def silent() -> AsyncIterator[int]:
        try:
            await asyncio.sleep(3600)
            yield 0
        finally:
            ended.append("silent")

    async def main() -> None:
        with pytest.raises(Problem, match=r"not finished within 0\.05 seconds") as problem:
            async for _ in within(silent(), 0.05):
                pass
        assert problem.value.status == 504

    asyncio.run(main())
    assert ended == ["silent"]
