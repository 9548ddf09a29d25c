"""`adapter-export extract`."""

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
  adapter-export extract --bundle bundle --adapter style --for genai --output style.onnx_adapter
"""


@click.command("extract", cls=Command, epilog=EXAMPLE)
@bundle_option("Bundle of mode swappable or bank.")
@click.option("--adapter", required=True, metavar="NAME", help="Name of the adapter.")
@click.option(
    "--for",
    "tool",
    required=True,
    metavar="TOOL",
    help="olive: a graph that Olive made. genai: one of ONNX Runtime GenAI's model builder, made with an adapter.",
)
@click.option("--dtype", type=click.Choice(["float32", "float16"]), help="Data type of the tensors; else the bundle's.")
@output_option("The .onnx_adapter file to write.")
@force_option
@json_option
@debug_option
def command(bundle: Path, adapter: str, tool: str, dtype: str | None, output: Path, force: bool, as_json: bool) -> None:
    """Write an adapter of a bundle as an .onnx_adapter file with the tensor names of another tool.

    The other graph must be of the same base model, with places for the adapter at the same modules. The adapter's
    scale (alpha / rank) is multiplied into the file, as these tools expect it.
    """
    from adapter_export.bundle.foreign_files import extract_adapter

    path = extract_adapter(bundle, adapter, output, tool=tool, dtype=dtype, force=force)
    emit({"output": path, "adapter": adapter, "for": tool}, as_json, _print)


def _print(result: Mapping[str, Any]) -> None:
    click.echo(f"{result['output']}: adapter {result['adapter']}, for a graph of {result['for']}")
