"""`adapter-export triton`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from adapter_export.cli.options import (
    Command,
    bundle_option,
    debug_option,
    emit,
    force_option,
    json_option,
    output_option,
)

EXAMPLE = """\
Example:
  adapter-export triton --bundle bank --output repository --name classifier
"""


@click.command("triton", cls=Command, epilog=EXAMPLE)
@bundle_option("Bundle of mode merged, embedded or bank.")
@output_option("Folder of the model repository to write.")
@click.option("--name", metavar="NAME", help="Name of the model; that of the bundle's folder, if not given.")
@click.option("--max-batch", type=click.IntRange(1), default=16, show_default=True, help="Most rows in a batch.")
@click.option("--gpu", is_flag=True, help="Run the model on GPUs; otherwise on the CPU.")
@force_option
@json_option
@debug_option
def command(
    bundle: Path, output: Path, name: str | None, max_batch: int, gpu: bool, force: bool, as_json: bool
) -> None:
    """Write a model repository of NVIDIA's Triton Inference Server.

    Triton runs the graph by its ONNX Runtime backend, without adapter-export. In a bundle of mode bank, each row of a
    request chooses its adapter by its number, in the input adapter_ids. The numbers are printed, and are in the
    parameters of the model's configuration. Texts are tokenized by the client.
    """
    from adapter_export.serving.triton.repository import write_repository

    written = write_repository(bundle, output, name=name, max_batch=max_batch, gpu=gpu, force=force)
    config = written.config
    emit(
        {
            "output": written.path,
            "model": config.name,
            "max_batch": config.max_batch,
            "device": "gpu" if config.gpu else "cpu",
            "inputs": list(config.inputs),
            "outputs": list(config.outputs),
            "adapter_ids": config.adapter_ids,
        },
        as_json,
        _print,
    )


def _print(result: Mapping[str, Any]) -> None:
    click.echo(f"{result['output']}: model {result['model']}, on {result['device']}, {_batches(result['max_batch'])}")
    if result["adapter_ids"] is not None:
        click.echo("adapter_ids of each row: 0 for the base model")
        for name, number in result["adapter_ids"].items():
            click.echo(f"  {number}  {name}")


def _batches(most: int) -> str:
    return f"batches of at most {most} rows" if most > 1 else "one row a batch"
