"""How dry runs are printed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import click

from adapter_export.cli.table import print_table
from adapter_export.inspection.tensors import Tensor, grouped


def print_adapters(adapters: Iterable[Mapping[str, Any]]) -> None:
    """One table of the sites of each adapter; those that differ in numbers only are one line."""
    for adapter in adapters:
        tensors = [
            Tensor(
                f"{site['site']}", f"{site['operator']}\n{site['port']}", (_shapes(site["shapes"]), site["parameters"])
            )
            for site in adapter["sites"]
        ]
        head = f", task head {', '.join(adapter['head'])}" if adapter["head"] else ""
        labels = f", labels {', '.join(adapter['labels'])}" if adapter["labels"] else ""
        print_table(
            f"{adapter['name']}: {adapter['method']} ({adapter['source_format']}), {adapter['parameters']:,} values"
            f"{head}{labels}, {license_of(adapter['license'])}",
            ("sites", "count", "port", "operator", "tensors", "values each"),
            [
                (
                    group.name,
                    str(group.count),
                    group.dtype.partition("\n")[2],
                    group.dtype.partition("\n")[0],
                    str(group.shape[0]),
                    f"{group.shape[1]:,}",
                )
                for group in grouped(tensors)
            ],
        )


def print_tensors(title: str, tensors: Iterable[Mapping[str, Any]]) -> None:
    """One table; tensors that differ in numbers only are one line."""
    given = [Tensor(item["name"], item["dtype"], tuple(item["shape"])) for item in tensors]
    if given:
        print_table(
            title,
            ("tensors", "count", "dtype", "shape"),
            [(one.name, str(one.count), one.dtype, " x ".join(map(str, one.shape))) for one in grouped(given)],
        )


def license_of(stated: str | None) -> str:
    """What the README.md of a model or an adapter states about its license."""
    return f"license {stated}" if stated else "license not stated"


def print_notes(notes: Iterable[str]) -> None:
    for note in notes:
        click.echo(f"note: {note}")


def megabytes(size: int) -> str:
    """A size for people."""
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size:,} bytes"


def _shapes(shapes: Mapping[str, Iterable[int]]) -> str:
    return ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in shapes.items())
