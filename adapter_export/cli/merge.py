"""`adapter-export merge`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from adapter_export.cli.options import (
    PATH,
    Command,
    debug_option,
    dry_run_option,
    emit,
    follow_links_option,
    force_option,
    json_option,
    labels_option,
    model_option,
    output_option,
    task_option,
)
from adapter_export.cli.plans import license_of, megabytes, print_adapters, print_notes, print_tensors
from adapter_export.cli.progress import bar

EXAMPLE = """\
Examples:
  adapter-export merge --model MiniLM --adapter adapters/sentiment --output MiniLM-sentiment
  adapter-export merge --model MiniLM --adapter adapters/sentiment --output MiniLM-sentiment --dry-run
  adapter-export merge --model llama --adapter peft-one --adapter peft-two --output llama-both
"""


@click.command("merge", cls=Command, epilog=EXAMPLE)
@model_option("Folder of the base model, with safetensors files.")
@click.option(
    "--adapter",
    "adapters",
    required=True,
    multiple=True,
    type=PATH,
    help="Folder with an IA3 or LoRA adapter (PEFT or AdapterHub); several apply in the order given.",
)
@output_option("Model folder to write.")
@task_option("Task of the task head, if the adapter does not state it; features leaves the head out.")
@labels_option
@dry_run_option
@follow_links_option
@force_option
@json_option
@debug_option
def command(
    model: Path,
    adapters: tuple[Path, ...],
    output: Path,
    task: str,
    labels: tuple[str, ...],
    dry_run: bool,
    follow_links: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Fold adapters (IA3, LoRA) and a task head into a copy of the model, without loading the model.

    Weights and biases are computed in float64 and rounded once, to their own dtype. All other tensors and files are
    copied, except other forms of the weights (.bin, .onnx, ...) and, without --follow-links, files that links outside
    of the folder lead to. OUTPUT/adapter_export.json says what was merged; 'inspect' shows it.
    """
    from adapter_export import merge
    from adapter_export.checkpoints.labels import parse_labels
    from adapter_export.merging.merge import names_of

    given = parse_labels(labels, names_of(adapters))
    if dry_run:
        from adapter_export import plan_merge

        plan = plan_merge(model, adapters, output, task=task, labels=given, force=force, follow_links=follow_links)
        emit({"dry_run": True, **asdict(plan)}, as_json, _print_plan)
        return
    with bar("merge", of_bytes=True) as progress:
        result = merge(
            model, adapters, output, task=task, labels=given, force=force, progress=progress, follow_links=follow_links
        )
    emit(
        {
            "output": result.output,
            "architecture": result.architecture,
            "changed": list(result.changed),
            "head": result.head,
            "left_out": list(result.left_out),
        },
        as_json,
        _print,
    )


def _print_plan(plan: Mapping[str, Any]) -> None:
    click.echo(f"{plan['output']}: would be written, {plan['architecture']}, {megabytes(plan['bytes'])}")
    click.echo(f"base model: {license_of(plan['base_license'])}")
    click.echo(f"of them {megabytes(plan['new_bytes'])} of changed and new tensors")
    print_adapters(plan["adapters"])
    print_tensors("tensors that would be changed", plan["changed"])
    print_tensors("tensors of the task head that would come along", plan["added"])
    for title, name in (("tensors that would go", "dropped"), ("copied", "copied"), ("not copied", "left_out")):
        if plan[name]:
            click.echo(f"{title}: {', '.join(plan[name])}")
    print_notes(plan["notes"])


def _print(result: Mapping[str, Any]) -> None:
    head = " and its task head" if result["head"] else ""
    click.echo(f"{result['output']}: {result['architecture']}, {len(result['changed'])} tensors changed{head}")
    if result["left_out"]:
        click.echo(f"not copied: {', '.join(result['left_out'])}")
