"""`adapter-export run`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from adapter_export.cli.answers import LIKELY, answers, check_answerable
from adapter_export.cli.batches import named
from adapter_export.cli.completions import write
from adapter_export.cli.options import (
    PATH,
    Command,
    adapters_option,
    bundle_option,
    debug_option,
    emit,
    json_option,
    provider_option,
    quiet_unless_debug,
)
from adapter_export.cli.table import print_table
from adapter_export.cli.text_requests import text_requests
from adapter_export.errors import InputError
from adapter_export.terminal import visible

EXAMPLE = """\
Examples:
  adapter-export run --bundle bundle --adapter sentiment --adapter topic --text "what a lovely day"
  adapter-export run --bundle bundle --adapter style=0.7,domain=0.3 --text "what a lovely day"
  adapter-export run --bundle writer --adapter poems --text "the night" --temperature 0.8 --top-p 0.95 --seed 1
"""
# Characters of a text shown in a table.
_SHOWN = 48


@click.command("run", cls=Command, epilog=EXAMPLE)
@bundle_option()
@adapters_option(
    "Name of an adapter, or several at once, each with a strength (1: as it was trained); repeatable.",
    metavar="NAME | NAME=STRENGTH,...",
)
@click.option("--head", metavar="NAME", help="Which of several adapters' task heads is used.")
@click.option("--text", "texts", multiple=True, help="Text to run; repeatable.")
@click.option(
    "--input",
    "file",
    type=PATH,
    help='File with one {"text": ...} per line; an "adapter" in a line replaces --adapter for this line '
    '(a name, or {"NAME": STRENGTH, ...} and a "head").',
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1),
    help="When generating; else as generation_config.json says, or 128, with room.",
)
@click.option("--temperature", type=click.FloatRange(0), help="Above 0, tokens are drawn.  [default: 0]")
@click.option("--top-k", type=click.IntRange(1), help="Draw among the K most probable tokens.")
@click.option(
    "--top-p", type=click.FloatRange(0, 1, min_open=True), help="Draw among the most probable that add up to P."
)
@click.option("--seed", type=click.IntRange(0), help="Draw the same tokens each time; text i uses the seed + i.")
@click.option("--chat", is_flag=True, help='Texts are messages of a user; a line may have "messages" instead.')
@provider_option
@click.option(
    "--expect-sha256",
    metavar="DIGEST",
    help="Refuse every bundle whose manifest.json is not the one of this digest (`inspect` prints it).",
)
@json_option
@debug_option
def command(
    bundle: Path,
    adapters: tuple[str, ...],
    head: str | None,
    texts: tuple[str, ...],
    file: Path | None,
    provider: str,
    expect_sha256: str | None,
    as_json: bool,
    chat: bool,
    **settings: Any,
) -> None:
    """Run texts through a bundle, each with each of the adapters; without --adapter, through the base model.

    Prints labels with their probabilities; for features, each text's mean over its tokens; a language model writes on,
    token by token (without a cache in its graph: its most probable next tokens).
    """
    from adapter_export.runtime.generation.prepare import generates
    from adapter_export.runtime.session import AdapterSession
    from adapter_export.runtime.text import TextEncoder

    if bool(texts) == (file is not None):
        raise click.UsageError("expected --text TEXT or --input FILE, one of the two")
    requests = list(text_requests(texts, file, adapters, head, chat=chat))
    if not requests:
        raise InputError(f"{file}: expected lines with texts, found none")
    quiet_unless_debug()
    settings = {name: value for name, value in settings.items() if value is not None}
    with AdapterSession(bundle, provider=provider, expect_sha256=expect_sha256) as session:
        for adapter in dict.fromkeys(request.adapter for request in requests):
            check_answerable(session, adapter)
        result = {"bundle": bundle, "task": session.manifest.task, "provider": provider}
        if generates(session.manifest):
            results = write(session, requests, settings, chat=chat, streamed=not as_json)
            # Otherwise all of it was printed as it came.
            emit({**result, "results": results}, as_json, lambda _: None)
            return
        if chat or settings:
            option = "chat" if chat else next(iter(settings)).replace("_", "-")
            raise InputError(f"--{option}: the graph of {bundle} does not generate (task {session.manifest.task})")
        plain = [(str(request.given["text"]), request.adapter) for request in requests]
        results = answers(session, TextEncoder(bundle, session.manifest), plain)
        emit({**result, "results": results}, as_json, _print)


def _print(result: Mapping[str, Any]) -> None:
    rows = [(_shortened(item["text"]), named(item) or "-", *(_cells(item))) for item in result["results"]]
    columns = {"features": ("mean over tokens", "norm"), "causal-lm": ("next", "probability")}
    numbers = dict.fromkeys("value" if "values" in item else "probability" for item in result["results"])
    print_table(
        f"{result['bundle']}: {result['task']}, {result['provider']}",
        ("text", "adapter", *columns.get(result["task"], ("label", " or ".join(numbers)))),
        rows,
    )
    if cut := sum(item["truncated"] for item in result["results"]):
        click.echo(f"note: {cut} of the texts were longer than the model takes, and were cut", err=True)


def _cells(item: Mapping[str, Any]) -> tuple[str, str]:
    if "probabilities" in item:
        ranked = sorted(item["probabilities"].items(), key=lambda pair: -pair[1])
        likely = {True: " yes", False: " no"} if "labels" in item else {True: "", False: ""}
        shown = "\n".join(f"{value:.4f}{likely[value > LIKELY]}" for _, value in ranked)
        return _lines(label for label, _ in ranked), shown
    if "next" in item:
        found = item["next"]
        return _lines(repr(n["token"]) for n in found), "\n".join(f"{n['probability']:.4f}" for n in found)
    if "values" in item:
        return _lines(item["values"]), "\n".join(f"{value:.4f}" for value in item["values"].values())
    start = ", ".join(f"{value:.3f}" for value in item["embedding"][:4])
    return f"[{start}, ...] of {item['shape'][1]}", f"{item['norm']:.4f}"


def _lines(names: Iterable[str]) -> str:
    """One a line, whatever is in them."""
    return "\n".join(visible(name, lines=False) for name in names)


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 3]}..."
