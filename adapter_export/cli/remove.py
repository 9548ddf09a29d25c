"""`adapter-export remove`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from adapter_export.cli.options import Command, debug_option, emit, json_option, lock_timeout_option

EXAMPLE = """\
Example:
  adapter-export remove --bundle bundle --adapter spam --adapter topic
"""


@click.command("remove", cls=Command, epilog=EXAMPLE)
@click.option("--bundle", required=True, type=click.Path(path_type=Path), help="Bundle of mode swappable or bank.")
@click.option(
    "--adapter", "adapters", multiple=True, required=True, metavar="NAME", help="Name of the adapter; repeatable."
)
@lock_timeout_option
@json_option
@debug_option
def command(bundle: Path, adapters: tuple[str, ...], lock_timeout: float, as_json: bool) -> None:
    """Remove adapters from a bundle: all of them, or none. The graph does not change."""
    from adapter_export.bundle.remove import remove_adapter

    manifest = remove_adapter(bundle, adapters, lock_timeout=lock_timeout)
    result = {"bundle": bundle, "removed": list(adapters), "adapters": [info.name for info in manifest.adapters]}
    emit(result, as_json, _print)


def _print(result: Mapping[str, Any]) -> None:
    click.echo(f"{result['bundle']}: removed {', '.join(result['removed'])}")
    click.echo(f"adapters: {', '.join(result['adapters']) or 'none'}")
