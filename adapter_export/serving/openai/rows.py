"""Generates the rows of a request, and turns their tokens into text."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapter_export.runtime.continuous.stream import NewToken, TokenStream
from adapter_export.runtime.generation.stream import Finish
from adapter_export.runtime.generation.texts import PromptTexts
from adapter_export.serving.engine import Engine
from adapter_export.serving.openai.schema import Generating
from adapter_export.serving.openai.stopping import StopTexts

# OpenAI's API draws tokens unless a request asks for something else.
_TEMPERATURE = 1.0


@dataclass(frozen=True)
class Part:
    """A part of the text of a row.

    Attributes:
        row: Number of the row.
        text: The text.
        tokens: The tokens that were chosen since the last part.
        finish: Why the row has ended; None while it continues.
    """

    row: int
    text: str
    tokens: tuple[NewToken, ...]
    finish: Finish | None


@dataclass
class Row:
    """A row of a request.

    Attributes:
        prompt: Token ids of its prompt.
        stream: Its new tokens.
        parts: The parts of its text so far.
    """

    prompt: list[int]
    stream: TokenStream
    parts: list[Part] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Its text so far."""
        return "".join(part.text for part in self.parts)

    @property
    def tokens(self) -> list[NewToken]:
        """Its new tokens so far."""
        return [token for part in self.parts for token in part.tokens]

    @property
    def finish(self) -> Finish | None:
        """Why it has ended."""
        return self.parts[-1].finish if self.parts else None


class Rows:
    """The rows of one request. Leaving the block ends those that have not ended.

    with Rows(...) as rows:
        async for part in rows.parts(): ...
    """

    def __init__(
        self,
        engine: Engine,
        prompts: Sequence[list[int]],
        adapter: str | None,
        request: Generating,
        max_new_tokens: int,
        logprobs: int | None,
    ) -> None:
        """Queues all rows, or none of them.

        Args:
            engine: The engine.
            prompts: Token ids of each prompt. Each has `request.n` rows.
            adapter: The adapter; None for the base model.
            request: The request.
            max_new_tokens: Largest number of new tokens per row.
            logprobs: Number of most probable tokens with each new one; None for no probabilities.

        Raises:
            InputError: A setting is out of range, or a prompt does not fit.
            Unavailable: The queue has no place for all rows.
        """
        assert engine.generator is not None
        assert engine.prompts is not None
        self._texts: PromptTexts = engine.prompts
        self._stops = request.stops
        self.rows: list[Row] = []
        repeated = [prompt for prompt in prompts for _ in range(request.n)]
        engine.check_rows(len(repeated))
        try:
            for number, prompt in enumerate(repeated):
                settings = _settings(request, number)
                stream = engine.generator.submit(
                    prompt, adapter, logprobs=logprobs, max_new_tokens=max_new_tokens, **settings
                )
                self.rows.append(Row(prompt, stream))
        except BaseException:
            self.close()
            raise
        self.prompt_tokens = sum(map(len, prompts))

    @property
    def completion_tokens(self) -> int:
        """Number of new tokens so far."""
        return sum(len(row.tokens) for row in self.rows)

    def close(self) -> None:
        """Ends the rows that have not ended."""
        for row in self.rows:
            row.stream.close()

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def finish(self) -> None:
        """Waits for all rows."""
        async for _ in self.parts():
            pass

    async def parts(self) -> AsyncIterator[Part]:
        """Yields the parts of all rows as they come. The last part of a row has a `finish`."""
        queue: asyncio.Queue[Part | BaseException] = asyncio.Queue()
        tasks = [asyncio.ensure_future(self._follow(number, queue)) for number in range(len(self.rows))]
        left = len(tasks)
        try:
            while left:
                part = await queue.get()
                if isinstance(part, BaseException):
                    raise part
                left -= part.finish is not None
                yield part
        finally:
            for task in tasks:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, number: int, queue: asyncio.Queue[Part | BaseException]) -> None:
        try:
            async for part in self._parts_of(number):
                self.rows[number].parts.append(part)
                queue.put_nowait(part)
        except Exception as error:  # of any kind: it ends the request
            queue.put_nowait(error)

    async def _parts_of(self, number: int) -> AsyncIterator[Part]:
        row = self.rows[number]
        texts, stop = self._texts.stream(row.prompt), StopTexts(self._stops)
        async for new in row.stream:  # ends with a token that has a finish, unless it was closed
            text = await asyncio.to_thread(texts.push, new.token)
            if new.finish is not None:
                text += await asyncio.to_thread(texts.rest)
            text = stop.push(text)
            finish: Finish | None = new.finish
            if stop.stopped:
                finish = "stop"
            elif finish is not None:
                text += stop.rest()
            yield Part(number, text, (new,), finish)
            if finish is not None:
                row.stream.close()
                return


def _settings(request: Generating, number: int) -> dict[str, Any]:
    """Returns the settings of `AdapterSession.generate` for a row of a request."""
    temperature = _TEMPERATURE if request.temperature is None else request.temperature
    settings: dict[str, Any] = {"temperature": temperature, "repetition_penalty": request.repetition_penalty}
    if temperature > 0:
        seed = None if request.seed is None else (request.seed + number) % (1 << 63)
        settings |= {"top_p": request.top_p, "top_k": request.top_k, "seed": seed}
    return settings
