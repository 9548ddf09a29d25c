"""`adapter-export train`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any, get_args, get_type_hints

import click

from adapter_export.cli.options import (
    PATH,
    Command,
    debug_option,
    emit,
    follow_links_option,
    force_option,
    json_option,
    model_option,
    output_option,
)
from adapter_export.methods import registry

EXAMPLE = """
Examples:
  adapter-export train --model MiniLM --method ia3 --task text-classification \\
      --train train.csv --eval test.csv --output adapters/topics
  adapter-export train --model SmolLM2 --method bottleneck --task causal-lm \\
      --train chats.jsonl --max-length 512 --output adapters/support

What a causal-lm learns to write, by the columns of the data:
  text                 the complete text
  prompt, completion   the completion
  messages             the assistant's messages; prompt and completion may contain messages, too
A seq2seq-lm reads text and learns to write label, or reads prompt and learns to write completion.

With two processes (or GPUs), with the same result:
  torchrun --nproc-per-node 2 -m adapter_export train ...
"""


def _method_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds an option to the command for every setting of every method."""
    found: dict[str, tuple[Any, str, list[str]]] = {}
    for method in registry.names():
        options = registry.get(method).Options
        kinds = get_type_hints(options)
        for field in fields(options):
            default = "" if field.default is None else f"  [default: {field.default}]"
            text = f"{method}: {field.metadata['help']}.{default}"
            kind = next(kind for kind in (*get_args(kinds[field.name]), kinds[field.name]) if kind is not type(None))
            found.setdefault(field.name, (kind, field.metadata["value"], []))[2].append(text)
    for name, (kind, value, texts) in reversed(found.items()):
        option = f"--{name.replace('_', '-')}"
        command = click.option(option, type=kind, metavar=value, help=" ".join(texts))(command)
    return command


@click.command("train", cls=Command, epilog=EXAMPLE)
@model_option("Folder of the base model; its weights are not changed.")
@click.option("--method", required=True, help=f"Kind of adapter: {', '.join(registry.names())}.")
@click.option("--task", required=True, help="text-classification, causal-lm or seq2seq-lm.")
@click.option("--train", required=True, type=PATH, help="Training data: csv, tsv, jsonl or parquet.")
@click.option("--eval", type=PATH, help="Evaluation data in one of these formats; reported after each epoch.")
@output_option("Folder for the adapter.")
@click.option("--text-column", metavar="NAME", help="Column with the input text.  [default: text, prompt or messages]")
@click.option(
    "--label-column",
    metavar="NAME",
    help="Column with the class, or the text to write.  [default: label or completion]",
)
@click.option("--epochs", type=int, help="Passes over the training data.  [default: 4]")
@click.option("--max-steps", type=int, help="Updates, instead of epochs.")
@click.option(
    "--batch-size",
    type=int,
    default=32,
    show_default=True,
    help="Examples per update, over all processes and accumulation steps together.",
)
@click.option(
    "--gradient-accumulation", type=int, default=1, show_default=True, help="Split each update into this many steps."
)
@click.option("--learning-rate", type=float, help="Largest learning rate.  [default: the method's]")
@click.option(
    "--max-length", type=int, help="Number of tokens at which texts are cut.  [default: 128, or the model's limit]"
)
@click.option(
    "--early-stopping", type=int, metavar="EPOCHS", help="End after this many epochs without a lower --eval loss."
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--target", metavar="REGEX", help="Modules to adapt, by full path, instead of the method's choice.")
@_method_options
@click.option("--resume", is_flag=True, help="Continue an interrupted run from OUTPUT.partial, if it exists.")
@follow_links_option
@force_option
@json_option
@debug_option
def command(as_json: bool, **arguments: Any) -> None:
    """Train an adapter, and a task head if the task has one, for a frozen base model."""
    from adapter_export.training import processes
    from adapter_export.training.train import train

    result = train(**arguments, progress=True)
    if processes.is_first():
        emit(asdict(result), as_json, _print)
    processes.leave()


def _print(result: Mapping[str, Any]) -> None:
    if result["truncated"]:
        click.echo(f"{result['truncated']} texts were cut to {result['max_length']} tokens", err=True)
    if result["left_out"]:
        click.echo(f"{result['left_out']} rows were left out: cut so short, they have nothing to learn", err=True)
    click.echo(f"{result['output']}: {result['method']} adapter of {result['parameters']:,} values")
    since = "" if result["resumed_from"] is None else f", resumed after {result['resumed_from']}"
    kept = "" if result["kept_step"] == result["steps"] else f", kept the state after {result['kept_step']}"
    click.echo(f"{result['steps']} updates{since}{kept}, {result['seconds']:.0f} s")
    for name, value in result["metrics"].items():
        click.echo(f"{name.replace('_', ' ')}: {value:.4f}")
