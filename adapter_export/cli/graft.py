"""`adapter-export graft`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from adapter_export.bundle.manifest import SLOTS
from adapter_export.bundle.modes import Mode
from adapter_export.cli.options import (
    PATH,
    Command,
    adapters_option,
    debug_option,
    dry_run_option,
    emit,
    follow_links_option,
    force_option,
    json_option,
    output_option,
)
from adapter_export.cli.plans import print_adapters, print_notes
from adapter_export.cli.progress import stages
from adapter_export.cli.table import print_table
from adapter_export.naming import parse_adapters

EXAMPLE = """\
Examples:
  adapter-export graft --graph smollm2-int4 --adapter poems=adapters/poems --model SmolLM2 --output bundle
  adapter-export graft --graph minilm/model.onnx --adapter topics=adapters/topics --output bundle --dry-run
"""


@click.command("graft", cls=Command, epilog=EXAMPLE)
@click.option(
    "--graph",
    required=True,
    type=PATH,
    help="A finished graph, or its folder: of GenAI's model builder, optimum, or PyTorch.",
)
@adapters_option("PEFT or AdapterHub folder; repeatable.", required=True)
@output_option("Bundle folder to write.")
@click.option(
    "--model", type=PATH, help="Base model folder, to compare the weights at each place; else places go by names."
)
@click.option(
    "--mode",
    default=Mode.SWAPPABLE.value,
    show_default=True,
    type=click.Choice([Mode.SWAPPABLE.value, Mode.EMBEDDED.value, Mode.BANK.value]),
    help="swappable: many adapters, chosen per run. embedded: one, constant. bank: many, chosen per row of a batch.",
)
@click.option(
    "--slots",
    default=SLOTS,
    show_default=True,
    type=click.IntRange(min=1),
    help="Mode bank: adapters that a runtime holds in memory at once.",
)
@dry_run_option
@follow_links_option
@force_option
@json_option
@debug_option
def command(
    graph: Path,
    adapters: tuple[str, ...],
    output: Path,
    model: Path | None,
    mode: str,
    slots: int,
    dry_run: bool,
    follow_links: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Put adapters into a finished ONNX graph, in seconds, without PyTorch."""
    wanted = parse_adapters(adapters)
    settings: dict[str, Any] = {"mode": mode, "model": model, "force": force, "follow_links": follow_links}
    if dry_run:
        from adapter_export import plan_graft

        emit({"dry_run": True, **asdict(plan_graft(graph, wanted, output, **settings))}, as_json, _print_plan)
        return
    from adapter_export import graft

    with stages("graft") as progress:
        manifest = graft(graph, wanted, output, **settings, slots=slots, progress=progress)
    assert manifest.graft is not None
    result = {
        "output": output,
        "mode": manifest.mode,
        "task": manifest.task,
        "dialect": manifest.graft.dialect,
        "verified": manifest.graft.verified,
        "sites": len(manifest.sites),
        "adapters": [
            {"name": info.name, "method": info.method, "parameters": info.parameters} for info in manifest.adapters
        ],
    }
    emit(result, as_json, _print)


def _places(result: Mapping[str, Any]) -> str:
    return "weights compared with the model" if result["verified"] else "places by names, weights not compared"


def _print_plan(plan: Mapping[str, Any]) -> None:
    click.echo(
        f"{plan['output']}: would be written: {plan['mode']}, {plan['task']}, {plan['sites']} sites, {_places(plan)}"
    )
    for file in plan["graphs"]:
        click.echo(f"{file}: {plan['model_type']}, a graph of {plan['dialect']}")
    print_adapters(plan["adapters"])
    print_notes(plan["notes"])


def _print(result: Mapping[str, Any]) -> None:
    print_table(
        f"{result['output']}: {result['mode']}, {result['task']}, {result['sites']} sites, {_places(result)}",
        ("adapter", "method", "parameters"),
        [(item["name"], item["method"], f"{item['parameters']:,}") for item in result["adapters"]],
    )
