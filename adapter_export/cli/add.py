"""`adapter-export add`."""

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
    follow_links_option,
    json_option,
    labels_option,
    lock_timeout_option,
    task_option,
)
from adapter_export.cli.table import print_table
from adapter_export.naming import parse_adapters

EXAMPLE = """\
Examples:
  adapter-export add --bundle bundle --adapter spam=adapters/spam --adapter topic=adapters/topic
  adapter-export add --bundle bundle --adapter style=olive/style.onnx_adapter
"""


@click.command("add", cls=Command, epilog=EXAMPLE)
@bundle_option("Bundle of mode swappable or bank.")
@adapters_option(
    "Name, and checkpoint folder (PEFT or AdapterHub) or .onnx_adapter file of an adapter; repeatable.", required=True
)
@task_option("auto: the task of the bundle. features: leave task heads out, for a bundle of the task features.")
@labels_option
@lock_timeout_option
@follow_links_option
@click.option("--force", is_flag=True, help="Replace adapters that the bundle has under the same names.")
@json_option
@debug_option
def command(
    bundle: Path,
    adapters: tuple[str, ...],
    task: str,
    labels: tuple[str, ...],
    lock_timeout: float,
    follow_links: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Add adapters to a bundle, all or none: nothing is traced, it takes seconds.

    The bundle's graph decides what fits: adapters at the sites, with the activations, that it was exported with.
    """
    from adapter_export.bundle.add import add_adapter
    from adapter_export.checkpoints.labels import parse_labels

    wanted = parse_adapters(adapters)
    manifest = add_adapter(
        bundle,
        wanted,
        force=force,
        task=task,
        labels=parse_labels(labels, list(wanted)),
        lock_timeout=lock_timeout,
        follow_links=follow_links,
    )
    result = {
        "bundle": bundle,
        "adapters": [
            {
                "name": info.name,
                "added": info.name in wanted,
                "method": info.method,
                "parameters": info.parameters,
                "labels": info.labels,
                "file": info.file,
                "sha256": info.sha256,
            }
            for info in manifest.adapters
        ],
    }
    emit(result, as_json, _print)


def _print(result: Mapping[str, Any]) -> None:
    print_table(
        f"{result['bundle']}: {len(result['adapters'])} adapters",
        ("adapter", "method", "parameters", "labels", ""),
        [
            (
                item["name"],
                item["method"],
                f"{item['parameters']:,}",
                ", ".join(item["labels"] or ()) or "-",
                "added" if item["added"] else "",
            )
            for item in result["adapters"]
        ],
    )
