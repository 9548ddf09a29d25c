"""`adapter-export run`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adapter_export import tasks
from adapter_export.checkpoints.problem_types import MULTI, REGRESSION
from adapter_export.cli.batches import BATCH, batches, named, ran_with
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

if TYPE_CHECKING:
    import numpy as np

    from adapter_export.runtime.adapters.choice import AdapterKey
    from adapter_export.runtime.session import AdapterSession
    from adapter_export.runtime.text import TextEncoder

EXAMPLE = """\
Examples:
  adapter-export run --bundle bundle --adapter sentiment --adapter topic --text "what a lovely day"
  adapter-export run --bundle bundle --adapter style=0.7,domain=0.3 --text "what a lovely day"
  adapter-export run --bundle writer --adapter poems --text "the night" --temperature 0.8 --top-p 0.95 --seed 1
"""
# Next tokens shown for a language model.
_NEXT = 5
# Of independent classes, those above this probability hold.
_LIKELY = 0.5
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
            _check_answerable(session, adapter)
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
        results = _run(session, TextEncoder(bundle, session.manifest), plain)
        emit({**result, "results": results}, as_json, _print)


def _check_answerable(session: AdapterSession, adapter: AdapterKey | None) -> None:
    labels = session.labels(adapter)  # raises for an adapter that is not there
    if tasks.get(session.manifest.task).labelled and labels is None:
        raise InputError(
            f"bundle {session.bundle}: its base model has no labels of its own; choose an adapter with --adapter "
            f"({', '.join(session.adapters)})"
        )


def _run(
    session: AdapterSession, encoder: TextEncoder, requests: Sequence[tuple[str, AdapterKey | None]]
) -> list[dict[str, Any]]:
    """One result a request, in their order."""
    from adapter_export.runtime.text import at_last_token, mean_pooled

    results: dict[int, dict[str, Any]] = {}
    task = session.manifest.task
    adapters = [adapter for _, adapter in requests]
    for batch in batches(session, adapters, BATCH if encoder.pad_id is not None else 1):
        encoded = encoder.encode([requests[index][0] for index in batch])
        rows = session.run_rows(encoded.inputs, [adapters[index] for index in batch])
        for row, index in enumerate(batch):
            mask, output = encoded.mask[row : row + 1], rows[row][tasks.get(task).output][None]
            if task == "features":
                answer = _features(mean_pooled(output, mask)[0], int(mask.sum()))
            elif tasks.get(task).labelled:
                labels, meant = session.labels(adapters[index]), session.problem_type(adapters[index])
                answer = _label(labels or (), output[0], str(meant))
            else:
                answer = _next(encoder, at_last_token(output, mask))
            results[index] = {
                "text": requests[index][0],
                **ran_with(session, adapters[index]),
                "tokens": int(mask.sum()),
                "truncated": encoded.truncated[row],
                **answer,
            }
    return [results[index] for index in range(len(requests))]


def _features(mean: np.ndarray, tokens: int) -> dict[str, Any]:
    return {"shape": [tokens, len(mean)], "norm": float((mean**2).sum() ** 0.5), "embedding": mean.tolist()}


def _label(labels: Sequence[str], logits: np.ndarray, problem_type: str) -> dict[str, Any]:
    """What logits [labels] say: `values` of a regression, else `probabilities`, by label, and in short `label` with its
    `value` or `probability`, or of independent classes the `labels` that are more likely than not."""
    from adapter_export.runtime.text import probabilities

    if problem_type == REGRESSION:
        values = dict(zip(labels, map(float, logits), strict=True))
        short = {"label": labels[0], "value": values[labels[0]]} if len(labels) == 1 else {}
        return {"problem_type": problem_type, **short, "values": values}
    found = dict(zip(labels, map(float, probabilities(logits, problem_type=problem_type)), strict=True))
    if problem_type == MULTI:
        chosen = {"labels": [label for label, value in found.items() if value > _LIKELY]}
        return {"problem_type": problem_type, **chosen, "probabilities": found}
    best = max(found, key=lambda label: found[label])
    return {"problem_type": problem_type, "label": best, "probability": found[best], "probabilities": found}


def _next(encoder: TextEncoder, logits: np.ndarray) -> dict[str, Any]:
    from adapter_export.runtime.text import probabilities

    (row,) = probabilities(logits)
    best = (-row).argsort()[:_NEXT]
    return {"next": [{"token": encoder.decode(int(i)), "probability": float(row[i])} for i in best]}


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
        shown = "\n".join(f"{value:.4f}{likely[value > _LIKELY]}" for _, value in ranked)
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
