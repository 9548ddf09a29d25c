"""Writes the answers of OpenAI's API."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from typing import Any, ClassVar

from adapter_export.runtime.continuous.stream import NewToken
from adapter_export.runtime.generation.texts import PromptTexts
from adapter_export.serving.openai.rows import Part, Row, Rows


class Writer:
    """Writes the answer to one request, whole or as a stream.

    Attributes:
        kind: The `object` of a whole answer.
        stream_kind: The `object` of a piece of a stream.
        prefix: What the id of the answer begins with.
    """

    kind: ClassVar[str]
    stream_kind: ClassVar[str]
    prefix: ClassVar[str]

    def __init__(self, model: str, texts: PromptTexts, fingerprint: str, *, logprobs: bool) -> None:
        """Gives the answer an id and a time.

        Args:
            model: Name of the model.
            texts: Turns tokens into text.
            fingerprint: Identifies the bundle.
            logprobs: Whether probabilities are part of the answer.
        """
        self._model, self._texts, self._fingerprint, self._with_logprobs = model, texts, fingerprint, logprobs
        self._id, self._created = uuid.uuid4().hex, int(time.time())

    async def whole(self, rows: Rows) -> dict[str, Any]:
        """Returns the answer with the complete rows."""
        choices = [await self._whole_choice(number, row) for number, row in enumerate(rows.rows)]
        return {**self._head(self.kind), "choices": choices, "usage": usage(rows)}

    async def first(self, rows: Rows) -> list[dict[str, Any]]:
        """Returns what a stream begins with."""
        return []

    async def chunk(self, part: Part) -> dict[str, Any]:
        """Returns the next piece of a stream."""
        return {**self._head(self.stream_kind), "choices": [await self._part_choice(part)]}

    def last(self, rows: Rows) -> dict[str, Any]:
        """Returns the piece of a stream with the number of tokens."""
        return {**self._head(self.stream_kind), "choices": [], "usage": usage(rows)}

    async def _whole_choice(self, number: int, row: Row) -> dict[str, Any]:
        raise NotImplementedError

    async def _part_choice(self, part: Part) -> dict[str, Any]:
        raise NotImplementedError

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"{self.prefix}-{self._id}",
            "object": kind,
            "created": self._created,
            "model": self._model,
            "system_fingerprint": self._fingerprint,
        }


class CompletionWriter(Writer):
    """Answers of /v1/completions."""

    kind = stream_kind = "text_completion"
    prefix = "cmpl"

    async def _whole_choice(self, number: int, row: Row) -> dict[str, Any]:
        return {
            "index": number,
            "text": row.text,
            "logprobs": await self._logprobs(row.tokens),
            "finish_reason": row.finish,
        }

    async def _part_choice(self, part: Part) -> dict[str, Any]:
        return {
            "index": part.row,
            "text": part.text,
            "logprobs": await self._logprobs(part.tokens),
            "finish_reason": part.finish,
        }

    async def _logprobs(self, tokens: Sequence[NewToken]) -> dict[str, Any] | None:
        if not self._with_logprobs:
            return None
        names = await token_texts(self._texts, tokens)
        chosen = [names[new.token] for new in tokens]
        return {
            "tokens": chosen,
            "token_logprobs": [new.logprob for new in tokens],
            "top_logprobs": [{names[token]: value for token, value in new.top} for new in tokens],
            "text_offset": [sum(map(len, chosen[:number])) for number in range(len(chosen))],
        }


class ChatWriter(Writer):
    """Answers of /v1/chat/completions."""

    kind, stream_kind = "chat.completion", "chat.completion.chunk"
    prefix = "chatcmpl"

    async def first(self, rows: Rows) -> list[dict[str, Any]]:
        delta = {"role": "assistant", "content": ""}
        return [
            {**self._head(self.stream_kind), "choices": [_choice(number, None, delta=delta)]}
            for number in range(len(rows.rows))
        ]

    async def _whole_choice(self, number: int, row: Row) -> dict[str, Any]:
        message = {"role": "assistant", "content": row.text, "refusal": None}
        return _choice(number, row.finish, message=message, logprobs=await self._logprobs(row.tokens))

    async def _part_choice(self, part: Part) -> dict[str, Any]:
        delta = {"content": part.text} if part.text else {}
        return _choice(part.row, part.finish, delta=delta, logprobs=await self._logprobs(part.tokens))

    async def _logprobs(self, tokens: Sequence[NewToken]) -> dict[str, Any] | None:
        if not self._with_logprobs:
            return None
        names = await token_texts(self._texts, tokens)

        def entry(token: int, value: float | None) -> dict[str, Any]:
            return {"token": names[token], "logprob": value, "bytes": list(names[token].encode())}

        content = [
            {**entry(new.token, new.logprob), "top_logprobs": [entry(token, value) for token, value in new.top]}
            for new in tokens
        ]
        return {"content": content, "refusal": None}


def usage(rows: Rows) -> dict[str, int]:
    """Returns the numbers of tokens of a request. A prompt counts once, also if it has several rows."""
    return {
        "prompt_tokens": rows.prompt_tokens,
        "completion_tokens": rows.completion_tokens,
        "total_tokens": rows.prompt_tokens + rows.completion_tokens,
    }


async def token_texts(texts: PromptTexts, tokens: Sequence[NewToken]) -> dict[int, str]:
    """Returns the text of each of these tokens, and of the most probable tokens beside them."""
    ids = list(dict.fromkeys(token for new in tokens for token in (new.token, *(token for token, _ in new.top))))
    found = await asyncio.to_thread(texts.token_texts, ids)
    return dict(zip(ids, found, strict=True))


def _choice(number: int, finish: str | None, **content: Any) -> dict[str, Any]:
    return {"index": number, "logprobs": None, **content, "finish_reason": finish}
