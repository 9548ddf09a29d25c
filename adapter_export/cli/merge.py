"""`adapter-export merge`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from adapter_export.cli.options import Command, debug_option, emit, force_option, json_option

EXAMPLE = """\
Example:
  adapter-export merge --model MiniLM --adapter adapters/sentiment --output MiniLM-sentiment
"""


@click.command("merge", cls=Command, epilog=EXAMPLE)
@click.option("--model", required=True, type=click.Path(path_type=Path), help="Base model folder.")
@click.option("--adapter", required=True, type=click.Path(path_type=Path), help="PEFT folder with an IA3 adapter.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Model folder to write.")
@force_option
@json_option
@debug_option
def command(model: Path, adapter: Path, output: Path, force: bool, as_json: bool) -> None:
    """Fold an IA3 adapter and its head into a copy of the model.

    The weights become round(float64(W) * float64(l)), biases included, in the model's own dtype.
    """
    from adapter_export.merging.merge import merge

    result = merge(model, adapter, output, force=force)
    emit(
        {
            "output": result.output,
            "architecture": result.architecture,
            "changed": list(result.changed),
            "head": result.head,
        },
        as_json,
        _print,
    )


def _print(result: Mapping[str, Any]) -> None:
    head = " and its task head" if result["head"] else ""
    click.echo(f"{result['output']}: {result['architecture']}, {len(result['changed'])} tensors scaled{head}")
