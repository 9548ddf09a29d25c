"""Fused operators of MiniLM's graphs, bare and with adapters: `python -m benchmarks.fusions`.

An adapter between two operators that ONNX Runtime fuses would keep them apart; a marker that the exporter does not know
must not. So the graph with adapters has to have every fused operator that the bare one has.
"""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.table import Table

from adapter_export.export.lower import lower
from adapter_export.export.modes import union_of_sites
from adapter_export.export.storage import Overridable
from adapter_export.export.target import Target
from adapter_export.export.trace import trace
from adapter_export.models.base_model import load_base
from adapter_export.naming import DOMAIN
from benchmarks.models import random_adapter
from samples import assets


def operators(fuse: str, *, adapters: bool) -> Counter[str]:
    """Nodes of the graph by operator, after ONNX Runtime's fusions for the provider."""
    base, target = load_base(assets.minilm(), "features"), Target.parse(fuse=fuse)
    made = [random_adapter(base, "ia3"), random_adapter(base, "bottleneck")] if adapters else []
    sites = union_of_sites(made)
    lowered = lower(trace(base, sites, target=target), sites, Overridable())
    return Counter(f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in lowered.model.graph)


def main() -> None:
    columns = {
        f"{fuse}, {'with adapters' if adapters else 'bare'}": operators(fuse, adapters=adapters)
        for fuse in ("none", "cpu", "cuda")
        for adapters in (False, True)
    }
    table = Table(
        title="Nodes by operator: MiniLM, features; IA3 and Houlsby bottlenecks, swappable", title_justify="left"
    )
    table.add_column("operator")
    for column in columns:
        table.add_column(column, justify="right")
    for name in sorted(
        {name for counts in columns.values() for name in counts}, key=lambda name: (name.startswith(DOMAIN), name)
    ):
        table.add_row(name, *(str(counts[name] or "") for counts in columns.values()))
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
