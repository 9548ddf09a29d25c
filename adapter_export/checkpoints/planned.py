"""What a dry run tells of an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adapter_export.checkpoints.adapter import Adapter


@dataclass(frozen=True)
class SitePlan:
    """A site of an adapter.

    Attributes:
        site: Its name: the path of the module, with `.input` if the adapter acts before it.
        port: How the adapter is attached to the module: `input`, `output`, `norm` or `branch`.
        operator: Name of the adapter's arithmetic there.
        shapes: Shape of each of its tensors, by name.
        parameters: Number of values of these tensors.
    """

    site: str
    port: str
    operator: str
    shapes: Mapping[str, tuple[int, ...]]
    parameters: int


@dataclass(frozen=True)
class AdapterPlan:
    """An adapter as it was read from its checkpoint.

    Attributes:
        name: Its name in the output.
        method: `ia3` or `bottleneck`.
        source_format: Format of the checkpoint.
        parameters: Number of its values, the task head included.
        labels: Class names of its task head; None without one.
        problem_type: What the numbers of its task head mean; None without one.
        head: Modules of its task head.
        sites: Its sites.
        license: The license that its README.md states; None if it states none.
    """

    name: str
    method: str
    source_format: str
    parameters: int
    labels: tuple[str, ...] | None
    problem_type: str | None
    head: tuple[str, ...]
    sites: tuple[SitePlan, ...]
    license: str | None


def plan_of(name: str, adapter: Adapter) -> AdapterPlan:
    """Describes an adapter that was placed in a model."""
    has_labels = adapter.num_labels is not None
    return AdapterPlan(
        name,
        adapter.method,
        adapter.source_format,
        adapter.parameters,
        adapter.label_names if has_labels else None,
        adapter.problem_type if has_labels else None,
        tuple(adapter.head),
        tuple(
            SitePlan(
                site.name,
                site.port.value,
                site_adapter.operator.op_type,
                {tensor: tuple(value.shape) for tensor, value in site_adapter.tensors.items()},
                int(sum(value.size for value in site_adapter.tensors.values())),
            )
            for site, site_adapter in adapter.sites.items()
        ),
        adapter.license,
    )
