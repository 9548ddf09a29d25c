"""What `adapter-export run` does with a bundle that generates: write on, in the terminal as it comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from adapter_export.cli.batches import batches, named, ran_with
from adapter_export.cli.text_requests import TextRequest
from adapter_export.errors import InputError
from adapter_export.terminal import console, visible

if TYPE_CHECKING:
    from adapter_export.runtime.generation.texts import PromptTexts
    from adapter_export.runtime.session import AdapterSession

# New tokens where nothing was asked for; fewer where the model has no room.
_NEW_TOKENS = 128


@dataclass(frozen=True)
class TokenizedRequest:
    """A request as tokens. seed: of its own, None when there is none."""

    request: TextRequest
    tokens: list[int]
    seed: int | None


def write(
    session: AdapterSession, requests: Sequence[TextRequest], settings: Mapping[str, Any], *, chat: bool, streamed: bool
) -> list[dict[str, Any]]:
    """Generate for each request, one result each; all are checked before anything runs. request i has the seed + i.

    streamed: on stdout as it comes, one request after the other; else in batches, silently.
    Raises InputError that names the request which does not fit in the model.
    """
    from adapter_export.runtime.generation.texts import PromptTexts

    reader = session.manifest.encoder or session.manifest.graphs[session.manifest.model]
    if "input_ids" not in reader.given:
        raise InputError(f"bundle {session.bundle}: takes {', '.join(reader.given)}, which no text gives")
    texts = PromptTexts(session.bundle)
    seed = settings.get("seed")
    prompts = [
        TokenizedRequest(request, _tokens(session, texts, request, chat), None if seed is None else seed + index)
        for index, request in enumerate(requests)
    ]
    settings = {**settings, "max_new_tokens": _new_tokens(session, prompts, settings.get("max_new_tokens"))}
    return (_show if streamed else _complete)(session, texts, prompts, settings)


def _tokens(session: AdapterSession, texts: PromptTexts, request: TextRequest, chat: bool) -> list[int]:
    from adapter_export.runtime.generation.chat import render_chat

    try:
        if not chat:
            return texts.encode(request.given["text"])
        text = request.given.get("text")
        messages = request.given["messages"] if text is None else [{"role": "user", "content": text}]
        # The template writes special tokens itself.
        return texts.encode(render_chat(session.bundle, messages), special=False)
    except InputError as error:
        raise InputError(f"{request.where}: {error}") from None


def _new_tokens(session: AdapterSession, prompts: Sequence[TokenizedRequest], wanted: int | None) -> int:
    from adapter_export.runtime.generation.prepare import check_room, positions_taken

    limit = session.manifest.longest_text
    longest = max(prompts, key=lambda prompt: len(prompt.tokens))
    taken = positions_taken(session.manifest, session.generation_config, len(longest.tokens))
    if wanted is None:
        usual = session.generation_config.max_new_tokens or _NEW_TOKENS
        wanted = usual if limit is None else max(1, min(usual, limit + 1 - taken))
    check_room(longest.request.where, taken, wanted, limit)
    return wanted


def _complete(
    session: AdapterSession, texts: PromptTexts, prompts: Sequence[TokenizedRequest], settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    results: dict[int, dict[str, Any]] = {}
    adapters = [prompt.request.adapter for prompt in prompts]
    for batch in batches(session, adapters):
        rows = [prompts[index] for index in batch]
        seeds = [prompt.seed for prompt in rows if prompt.seed is not None]
        generation = session.generate(
            [prompt.tokens for prompt in rows],
            adapters=[adapters[index] for index in batch],
            **{**settings, "seed": seeds or None},
        )
        for index, prompt, row in zip(batch, rows, generation.completions(), strict=True):
            text = texts.completion(_before(session, prompt), row.tokens[:-1] if row.finish == "stop" else row.tokens)
            results[index] = _result(session, prompt, text, len(row.tokens), row.finish)
    return [results[index] for index in range(len(prompts))]


def _show(
    session: AdapterSession, texts: PromptTexts, prompts: Sequence[TokenizedRequest], settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Token by token on stdout; with a heading each when there are several."""
    results = []
    for index, prompt in enumerate(prompts):
        stream, text = texts.stream(_before(session, prompt)), ""
        generation = session.generate([prompt.tokens], prompt.request.adapter, **{**settings, "seed": prompt.seed})
        if len(prompts) > 1:
            title = (
                f"{named(ran_with(session, prompt.request.adapter)) or 'no adapter'}: {_heading(prompt.request.given)}"
            )
            console().print(("\n" if index else "") + visible(title, lines=False), style="bold", highlight=False)
        for step in generation:
            (token,), (finish,) = step.tokens, step.finish
            if token is not None and finish != "stop":
                piece = stream.push(token)
                text += piece
                click.echo(visible(piece), nl=False)
        rest = stream.rest()
        click.echo(visible(rest))
        (row,) = generation.completions()
        results.append(_result(session, prompt, text + rest, len(row.tokens), row.finish))
    return results


def _before(session: AdapterSession, prompt: TokenizedRequest) -> list[int]:
    """Tokens that the new ones follow: the answer of an encoder-decoder stands alone."""
    return prompt.tokens if session.manifest.encoder is None else []


def _heading(given: Mapping[str, Any]) -> str:
    text = given["text"] if "text" in given else str(given["messages"][-1].get("content"))
    return " ".join(text.split())


def _result(
    session: AdapterSession, prompt: TokenizedRequest, text: str, tokens: int, finish: str | None
) -> dict[str, Any]:
    return {
        **prompt.request.given,
        **ran_with(session, prompt.request.adapter),
        "tokens": len(prompt.tokens),
        "completion": text,
        "new_tokens": tokens,
        "finish": finish,
    }
