"""The endpoints of OpenAI's API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from adapter_export.errors import InputError
from adapter_export.runtime.generation.chat import render_chat
from adapter_export.runtime.generation.texts import PromptTexts
from adapter_export.serving.bodies import parsed
from adapter_export.serving.middleware.access import problem_body
from adapter_export.serving.names import adapter_of, served_names
from adapter_export.serving.openai.answers import ChatWriter, CompletionWriter, Writer
from adapter_export.serving.openai.embeddings import embeddings
from adapter_export.serving.openai.rows import Rows
from adapter_export.serving.openai.schema import ChatRequest, CompletionRequest, Generating
from adapter_export.serving.problems import Problem, problem_of
from adapter_export.serving.service import Service, note, service_of
from adapter_export.serving.waiting import unless_gone, within

# OpenAI's default for completions.
_COMPLETION_TOKENS = 16
_OWNER = "adapter-export"


async def models(request: Request) -> Response:
    """Lists the models."""
    names = served_names(service_of(request).engine.session)
    return JSONResponse({"object": "list", "data": [_model(name) for name in names]})


async def model(request: Request) -> Response:
    """Describes a model."""
    name = request.path_params["model"]
    adapter_of(service_of(request).engine.session, name)
    return JSONResponse(_model(name))


async def completions(request: Request) -> Response:
    """Continues prompts."""
    service = service_of(request)
    asked = parsed(CompletionRequest, await request.body())
    adapter = _adapter(request, service, asked)
    prompts = await asyncio.to_thread(_prompts, service, asked.prompts)
    new = _new_tokens(service, prompts, asked.max_tokens or _COMPLETION_TOKENS)
    rows = Rows(service.engine, prompts, adapter, asked, new, asked.logprobs)
    writer = CompletionWriter(asked.model, _texts(service), _fingerprint(service), logprobs=asked.logprobs is not None)
    return await _answer(request, service, asked, rows, writer)


async def chat_completions(request: Request) -> Response:
    """Answers conversations."""
    service = service_of(request)
    asked = parsed(ChatRequest, await request.body())
    adapter = _adapter(request, service, asked)
    messages = [message.for_template() for message in asked.messages]
    text = await asyncio.to_thread(render_chat, service.settings.bundle, messages)
    # The template writes the special tokens itself.
    prompt = await asyncio.to_thread(_texts(service).encode, text, special=False)
    new = _new_tokens(service, [prompt], asked.max_completion_tokens or asked.max_tokens)
    logprobs = (asked.top_logprobs or 0) if asked.logprobs else None
    rows = Rows(service.engine, [prompt], adapter, asked, new, logprobs)
    writer = ChatWriter(asked.model, _texts(service), _fingerprint(service), logprobs=logprobs is not None)
    return await _answer(request, service, asked, rows, writer)


async def _answer(request: Request, service: Service, asked: Generating, rows: Rows, writer: Writer) -> Response:
    if asked.stream:
        with_usage = asked.stream_options is not None and asked.stream_options.include_usage
        events = _events(request, service, rows, writer, with_usage=with_usage)
        return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})
    with rows:
        await unless_gone(request, rows.finish(), service.settings.seconds)
        _note_tokens(request, rows)
        return JSONResponse(await writer.whole(rows))


async def _events(
    request: Request, service: Service, rows: Rows, writer: Writer, *, with_usage: bool
) -> AsyncIterator[str]:
    """Yields the answer as server-sent events. If the client goes away, the rows end."""
    with rows:
        try:
            for piece in await writer.first(rows):
                yield _event(piece)
            async for part in within(rows.parts(), service.settings.seconds):
                yield _event(await writer.chunk(part))
            if with_usage:
                yield _event(writer.last(rows))
        except Exception as error:  # of any kind: the status is sent already, so the stream says it
            problem = problem_of(error) or Problem(500, "internal error; the server's log has more")
            note(request, failed=problem.message)
            yield _event(problem_body(request.url.path, problem))
        finally:
            _note_tokens(request, rows)
        yield "data: [DONE]\n\n"


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"


def _note_tokens(request: Request, rows: Rows) -> None:
    note(request, prompt_tokens=rows.prompt_tokens, completion_tokens=rows.completion_tokens)


def _adapter(request: Request, service: Service, asked: Generating) -> str | None:
    adapter = adapter_of(service.engine.session, asked.model)
    note(request, model=asked.model)
    if not service.engine.generates:
        raise Problem(
            400, f"model {asked.model!r}: does not generate; use /v2/models/{asked.model}/infer", param="model"
        )
    return adapter


def _texts(service: Service) -> PromptTexts:
    if service.engine.prompts is None:
        raise Problem(400, "this bundle has no tokenizer, which is needed to return texts")
    return service.engine.prompts


def _prompts(service: Service, given: Sequence[str | list[int]]) -> list[list[int]]:
    """Returns the tokens of prompts."""
    texts = _texts(service)
    service.engine.check_rows(len(given))
    try:
        return [texts.encode(prompt) if isinstance(prompt, str) else list(prompt) for prompt in given]
    except InputError as error:
        raise Problem(400, f"prompt: {error}", param="prompt") from None


def _new_tokens(service: Service, prompts: Sequence[list[int]], asked: int | None) -> int:
    """Returns the largest number of new tokens: what was asked for, or else as many as fit."""
    session, most = service.engine.session, service.settings.max_tokens
    if asked is not None:
        if most is not None and asked > most:
            raise Problem(400, f"max_tokens: expected at most {most}, found {asked}", param="max_tokens")
        return asked
    limit = session.generation_config.max_new_tokens or most or _COMPLETION_TOKENS * 16
    longest = session.manifest.longest_text
    if longest is not None and session.manifest.encoder is None:
        # The last new token needs no position.
        limit = min(limit, longest + 1 - max(map(len, prompts)))
    return max(1, min(limit, most or limit))


def _fingerprint(service: Service) -> str:
    return f"fp_{service.digest[:12]}"


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": _OWNER}


ROUTES = [
    Route("/v1/models", models),
    Route("/v1/models/{model}", model),
    Route("/v1/completions", completions, methods=["POST"]),
    Route("/v1/chat/completions", chat_completions, methods=["POST"]),
    Route("/v1/embeddings", embeddings, methods=["POST"]),
]
