"""`adapter-export remove`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from adapter_export.cli.options import (
    Command,
    adapters_option,
    bundle_option,
    debug_option,
    emit,
    json_option,
    lock_timeout_option,
)

EXAMPLE = """\
Example:
  adapter-export remove --bundle bundle --adapter spam --adapter topic
"""


@click.command("remove", cls=Command, epilog=EXAMPLE)
@bundle_option("Bundle of mode swappable or bank.")
@adapters_option("Name of the adapter; repeatable.", metavar="NAME", required=True)
@lock_timeout_option
@json_option
@debug_option
def command(bundle: Path, adapters: tuple[str, ...], lock_timeout: float, as_json: bool) -> None:
    """Take adapters out of a bundle, all or none. The graph stays as it is."""
    from adapter_export.bundle.remove import remove_adapter

    manifest = remove_adapter(bundle, adapters, lock_timeout=lock_timeout)
    result = {"bundle": bundle, "removed": list(adapters), "adapters": [info.name for info in manifest.adapters]}
    emit(result, as_json, _print)


def _print(result: Mapping[str, Any]) -> None:
    click.echo(f"{result['bundle']}: removed {', '.join(result['removed'])}")
    click.echo(f"adapters: {', '.join(result['adapters']) or 'none'}")
