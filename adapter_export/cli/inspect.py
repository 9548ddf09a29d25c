"""`adapter-export inspect`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from adapter_export.cli.options import PATH, Command, debug_option, emit, json_option
from adapter_export.cli.table import print_table
from adapter_export.errors import InputError
from adapter_export.terminal import visible

EXAMPLE = """\
Example:
  adapter-export inspect bundle
  adapter-export inspect --json bundle/adapters/sentiment.onnx_adapter
"""
# What the columns of a table mean, by the name of the table.
_LEGENDS = {
    "inputs": "shape: numbers, and names for sizes that may differ from run to run.",
    "adapters": "source: where on the hub the checkpoint is. license: the one that its README.md states. -: none.",
    "sites": "port: where at the module an adapter acts: on its input, its output, the input of a norm, or a branch "
    "around it; replace: a task head in its place. {0-5}: the numbers from 0 to 5. -: none.",
    "tensors": "{0-5}: the numbers from 0 to 5. shape: names for sizes that adapters may differ in. -: not known.",
    "files": "sha256: digest of the file. status: compared with manifest.json; 'not listed' there. -: missing.",
    "external_data": "tensors: how many tensors of the graph are in the file. -: the file is missing.",
    "operators": "count: how many nodes of the graph have this operator. An empty domain is the ONNX standard.",
}


@click.command("inspect", cls=Command, epilog=EXAMPLE)
@click.argument("path", type=PATH)
@json_option
@debug_option
def command(path: Path, as_json: bool) -> None:
    """Describe the file or folder PATH.

    It may be an adapter checkpoint (PEFT or AdapterHub), a base model, a merged model, a bundle, an .onnx file or an
    .onnx_adapter file. The files of a bundle are compared with its manifest; if one is missing or changed, the exit
    code is 2.
    """
    from adapter_export import BundleDescription, inspect
    from adapter_export.inspection.descriptions import as_dict

    found = inspect(path)
    emit(as_dict(found), as_json, _print)
    if isinstance(found, BundleDescription) and found.faulty:
        bad = found.faulty[0]
        raise InputError(f"{path / bad.file}: {bad.status}, against the bundle's manifest")


def _print(result: Mapping[str, Any]) -> None:
    facts = {name: value for name, value in result.items() if name not in ("path", "kind") and not _is_table(value)}
    rows = [(name, _text(value)) for name, value in _flat(facts) if value not in (None, [], {})]
    print_table(f"{result['path']}: {result['kind']}", ("", "value"), rows)
    for name, value in result.items():
        if _is_table(value):
            columns = list(value[0])
            cells = [[_text(item.get(key)) for key in columns] for item in value]
            print_table(name.replace("_", " "), columns, cells, _LEGENDS.get(name, ""))


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _flat(facts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            flat += [(f"{name}.{key}", inner) for key, inner in value.items()]
        else:
            flat.append((name, value))
    return flat


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return visible(", ".join(str(item) for item in value), lines=False)
    return visible(str(value), lines=False)
