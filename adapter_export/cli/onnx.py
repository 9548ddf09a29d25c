"""`adapter-export onnx`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from adapter_export.bundle.manifest import SLOTS
from adapter_export.bundle.modes import Binding, Mode
from adapter_export.bundle.precision import Fusion, Precision, Quantization
from adapter_export.cli.options import (
    Command,
    adapters_option,
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
from adapter_export.cli.plans import license_of, megabytes, print_adapters, print_notes
from adapter_export.cli.progress import stages
from adapter_export.cli.table import print_table
from adapter_export.naming import parse_adapters

EXAMPLE = """\
Examples:
  adapter-export onnx --model MiniLM --mode swappable --output bundle \\
      --adapter injection=adapters/injection --adapter sentiment=adapters/sentiment
  adapter-export onnx --model MiniLM --mode merged --adapter one=adapters/one --output bundle --dry-run
"""


@click.command("onnx", cls=Command, epilog=EXAMPLE)
@model_option("Base model folder.")
@adapters_option("PEFT or AdapterHub folder; repeatable.")
@click.option(
    "--mode",
    required=True,
    type=click.Choice(Mode.words()),
    help="merged: folded into the weights (IA3, LoRA), or no adapter at all. embedded: one adapter, constant. "
    "swappable: many, chosen per run. bank: many, chosen per row of a batch.",
)
@output_option("Bundle folder to write.")
@task_option("auto takes the adapters' task, else the model's; features leaves task heads out.")
@click.option("--no-cache", is_flag=True, help="Decoders: a scoring graph without a key-value cache.")
@click.option("--no-tokenizer", is_flag=True, help="Leave the tokenizer out: the bundle takes token ids alone.")
@click.option(
    "--dtype",
    default="fp32",
    show_default=True,
    type=click.Choice(Precision.words()),
    help="Of weights, cache and adapters; other inputs and outputs stay float32. bf16 runs on CUDA only.",
)
@click.option(
    "--quantize",
    default="none",
    show_default=True,
    type=click.Choice(Quantization.words()),
    help="int8, int4: the base model's matrices in 8 or 4 bits; adapters stay as they are.",
)
@click.option(
    "--fuse",
    default="none",
    show_default=True,
    type=click.Choice(Fusion.words()),
    help="ONNX Runtime's fused operators for that provider; no other runtime has them.",
)
@click.option(
    "--bind",
    default="initializer",
    show_default=True,
    type=click.Choice(Binding.words()),
    help="Mode swappable: input makes adapter tensors required inputs, for runtimes that read no others (JavaScript).",
)
@click.option(
    "--slots",
    default=SLOTS,
    show_default=True,
    type=click.IntRange(min=1),
    help="Mode bank: adapters that a runtime holds in memory at once.",
)
@click.option("--opset", default=20, show_default=True, type=click.IntRange(min=20), help="ONNX opset.")
@labels_option
@dry_run_option
@follow_links_option
@force_option
@json_option
@debug_option
def command(
    model: Path,
    adapters: tuple[str, ...],
    mode: str,
    output: Path,
    task: str,
    no_cache: bool,
    no_tokenizer: bool,
    dtype: str,
    quantize: str,
    fuse: str,
    bind: str,
    slots: int,
    opset: int,
    labels: tuple[str, ...],
    dry_run: bool,
    follow_links: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Export a base model with adapters to an ONNX bundle."""
    from adapter_export.checkpoints.labels import parse_labels

    wanted = parse_adapters(adapters)
    settings: dict[str, Any] = {
        "mode": mode,
        "task": task,
        "cache": not no_cache,
        "tokenizer": not no_tokenizer,
        "opset": opset,
        "dtype": dtype,
        "quantize": quantize,
        "fuse": fuse,
        "bind": bind,
        "slots": slots,
        "labels": parse_labels(labels, list(wanted)),
        "force": force,
        "follow_links": follow_links,
    }
    if dry_run:
        from adapter_export import plan_export

        emit({"dry_run": True, **asdict(plan_export(model, wanted, output, **settings))}, as_json, _print_plan)
        return
    from adapter_export import export_onnx

    with stages("onnx") as progress:
        manifest = export_onnx(model, wanted, output, **settings, progress=progress)
    result = {
        "output": output,
        "mode": manifest.mode,
        "task": manifest.task,
        "dtype": manifest.dtype,
        "quantize": manifest.quantize,
        "fuse": manifest.fuse,
        "bind": manifest.bind,
        "contrib": list(manifest.contrib),
        "opset": manifest.opset,
        "inputs": {name: list(info.shape) for name, info in manifest.inputs.items()},
        "outputs": {name: list(info.shape) for name, info in manifest.outputs.items()},
        "sites": len(manifest.sites),
        "adapters": [
            {"name": info.name, "method": info.method, "parameters": info.parameters, "labels": info.labels}
            for info in manifest.adapters
        ],
        "bytes": sum(path.stat().st_size for path in output.rglob("*") if path.is_file()),
    }
    emit(result, as_json, _print)


def _print_plan(plan: Mapping[str, Any]) -> None:
    tokenizer = "with the tokenizer" if plan["tokenizer"] else "without a tokenizer"
    click.echo(
        f"{plan['output']}: would be written: {plan['mode']}, {plan['task']}, {_precision(plan)}, "
        f"{plan['sites']} sites, at least {megabytes(plan['bytes'])}"
    )
    click.echo(f"{', '.join(plan['graphs'])} of {plan['architecture']}, opset {plan['opset']}, {tokenizer}")
    click.echo(f"base model: {license_of(plan['base_license'])}")
    print_adapters(plan["adapters"])
    print_notes(plan["notes"])


def _precision(result: Mapping[str, Any]) -> str:
    fused = f", fused for {result['fuse']}" if Fusion(result["fuse"]).used else ""
    quantized = f" with {result['quantize']} weights" if Quantization(result["quantize"]).used else ""
    return f"{result['dtype']}{quantized}{fused}"


def _print(result: Mapping[str, Any]) -> None:
    print_table(
        f"{result['output']}: {result['mode']}, {result['task']}, {_precision(result)}, {result['sites']} sites, "
        f"{result['bytes'] / 1e6:.1f} MB",
        ("adapter", "method", "parameters", "labels"),
        [
            (item["name"], item["method"], f"{item['parameters']:,}", ", ".join(item["labels"] or ()) or "-")
            for item in result["adapters"]
        ],
    )
