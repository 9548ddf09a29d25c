"""`adapter-export run`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adapter_export import tasks
from adapter_export.cli.options import Command, Invocation, debug_option, emit, json_option
from adapter_export.cli.table import print_table
from adapter_export.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from adapter_export.runtime.session import AdapterSession
    from adapter_export.runtime.text import TextEncoder

EXAMPLE = """\
Example:
  adapter-export run --bundle bundle --adapter sentiment --adapter topic --text "what a lovely day"
"""
# Texts in one run of the graph.
_BATCH = 16
# Next tokens shown for a language model.
_NEXT = 5
# Characters of a text shown in a table.
_SHOWN = 48


@click.command("run", cls=Command, epilog=EXAMPLE)
@click.option("--bundle", required=True, type=click.Path(path_type=Path), help="Bundle folder.")
@click.option("--adapter", "adapters", multiple=True, metavar="NAME", help="Adapter of the bundle; repeatable.")
@click.option("--text", "texts", multiple=True, help="Text to run; repeatable.")
@click.option(
    "--input",
    "file",
    type=click.Path(path_type=Path),
    help='Lines of {"text": ...}; a line\'s own "adapter" takes the place of --adapter.',
)
@click.option("--provider", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]), help="Where to run.")
@json_option
@debug_option
def command(
    bundle: Path, adapters: tuple[str, ...], texts: tuple[str, ...], file: Path | None, provider: str, as_json: bool
) -> None:
    """Run texts through a bundle, each with each of the adapters; without --adapter, through the base model.

    Prints labels with their probabilities; for features, each text's mean over its tokens; for a language model, the
    most probable next tokens.
    """
    from adapter_export.runtime.provider import quiet_log
    from adapter_export.runtime.session import AdapterSession
    from adapter_export.runtime.text import TextEncoder

    if bool(texts) == (file is not None):
        raise click.UsageError("expected --text TEXT or --input FILE, one of the two")
    chosen = adapters or (None,)
    if file is None:
        requests = [(text, adapter) for text in texts for adapter in chosen]
    else:
        requests = list(_requests(file, chosen))
        if not requests:
            raise InputError(f"{file}: expected lines with texts, found none")
    if not click.get_current_context().ensure_object(Invocation).debug:
        quiet_log()
    with AdapterSession(bundle, provider) as session:
        for adapter in dict.fromkeys(adapter for _, adapter in requests):
            _check_answerable(session, adapter)
        results = _run(session, TextEncoder(bundle, session.manifest), requests)
        emit(
            {"bundle": bundle, "task": session.manifest.task, "provider": provider, "results": results}, as_json, _print
        )


def _requests(file: Path, adapters: Sequence[str | None]) -> Iterator[tuple[str, str | None]]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: expected UTF-8, found: {error}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{file}: line {number}: expected a JSON object, found: {error}") from None
        if not isinstance(value, dict) or not isinstance(value.get("text"), str):
            raise InputError(f"{file}: line {number}: expected an object with a field 'text' that is a string")
        own = value.get("adapter")
        if own is not None and not isinstance(own, str):
            raise InputError(f"{file}: line {number}: field 'adapter': expected a string, found {own!r}")
        yield from ((value["text"], adapter) for adapter in (adapters if own is None else (own,)))


def _check_answerable(session: AdapterSession, adapter: str | None) -> None:
    if tasks.get(session.manifest.task).labelled and session.labels(adapter) is None:
        raise InputError(
            f"bundle {session.bundle}: its base model has no labels of its own; choose an adapter with --adapter "
            f"({', '.join(session.adapters)})"
        )


def _run(
    session: AdapterSession, encoder: TextEncoder, requests: Sequence[tuple[str, str | None]]
) -> list[dict[str, Any]]:
    """One result a request, in their order; requests of one adapter share batches."""
    results: dict[int, dict[str, Any]] = {}
    in_graph = None if session.manifest.mode == "swappable" else session.adapters[0]
    size = _BATCH if encoder.pad_id is not None else 1
    for adapter in dict.fromkeys(adapter for _, adapter in requests):
        indices = [index for index, (_, wanted) in enumerate(requests) if wanted == adapter]
        for start in range(0, len(indices), size):
            batch = indices[start : start + size]
            encoded = encoder.encode([requests[index][0] for index in batch])
            output = session.run(encoded.inputs, adapter)[tasks.get(session.manifest.task).output]
            answers = _answers(session, encoder, adapter, output, encoded.mask)
            for row, (index, answer) in enumerate(zip(batch, answers, strict=True)):
                results[index] = {
                    "text": requests[index][0],
                    "adapter": adapter or in_graph,
                    "tokens": int(encoded.mask[row].sum()),
                    "truncated": encoded.truncated[row],
                    **answer,
                }
    return [results[index] for index in range(len(requests))]


def _answers(
    session: AdapterSession, encoder: TextEncoder, adapter: str | None, output: np.ndarray, mask: np.ndarray
) -> list[dict[str, Any]]:
    from adapter_export.runtime.text import at_last_token, mean_pooled, probabilities

    if (labels := session.labels(adapter)) is not None and tasks.get(session.manifest.task).labelled:
        if len(labels) == 1:  # a regression: softmax of one value is always 1
            return [{"label": labels[0], "value": float(row[0])} for row in output]
        return [_classes(labels, row) for row in probabilities(output)]
    if session.manifest.task == "features":
        return [
            {"shape": [int(kept.sum()), len(mean)], "norm": float((mean**2).sum() ** 0.5), "embedding": mean.tolist()}
            for kept, mean in zip(mask, mean_pooled(output, mask), strict=True)
        ]
    found = []
    for row in probabilities(at_last_token(output, mask)):
        best = (-row).argsort()[:_NEXT]
        found.append({"next": [{"token": encoder.decode(int(i)), "probability": float(row[i])} for i in best]})
    return found


def _classes(labels: Sequence[str], row: np.ndarray) -> dict[str, Any]:
    best = int(row.argmax())
    return {
        "label": labels[best],
        "probability": float(row[best]),
        "probabilities": {label: float(value) for label, value in zip(labels, row, strict=True)},
    }


def _print(result: Mapping[str, Any]) -> None:
    rows = [(_shortened(item["text"]), item["adapter"] or "-", *(_cells(item))) for item in result["results"]]
    columns = {"features": ("mean over tokens", "norm"), "causal-lm": ("next", "probability")}
    print_table(
        f"{result['bundle']}: {result['task']}, {result['provider']}",
        ("text", "adapter", *columns.get(result["task"], ("label", "probability"))),
        rows,
    )
    if cut := sum(item["truncated"] for item in result["results"]):
        click.echo(f"note: {cut} of the texts were longer than the model takes, and were cut", err=True)


def _cells(item: Mapping[str, Any]) -> tuple[str, str]:
    if "probabilities" in item:
        ranked = sorted(item["probabilities"].items(), key=lambda pair: -pair[1])
        return "\n".join(label for label, _ in ranked), "\n".join(f"{value:.4f}" for _, value in ranked)
    if "next" in item:
        found = item["next"]
        return "\n".join(repr(n["token"]) for n in found), "\n".join(f"{n['probability']:.4f}" for n in found)
    if "value" in item:
        return item["label"], f"{item['value']:.4f}"
    start = ", ".join(f"{value:.3f}" for value in item["embedding"][:4])
    return f"[{start}, ...] of {item['shape'][1]}", f"{item['norm']:.4f}"


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 3]}..."
