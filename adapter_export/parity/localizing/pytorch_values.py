"""Reads the values of modules and sites while PyTorch runs a case."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.models.injection import attach, remove_all
from adapter_export.parity.references.pytorch import Reference
from adapter_export.sites import Site

if TYPE_CHECKING:
    import torch

Arrays = Mapping[str, np.ndarray]


@dataclass
class PyTorchValues:
    """The values of one run. Each list has one item for each use of the module or site.

    Attributes:
        outputs: The outputs of the model, by name.
        modules: By path of a module in the complete model: the tensors that it returned.
        inputs: By path of a module: its first input, as an adapter at its input has changed it.
        before: By name of a site: the values that an operator reads there, by their names (see `methods.contract`).
        after: By name of a site: the value that comes out of it.
    """

    outputs: Arrays = field(default_factory=dict)
    modules: dict[str, list[list[torch.Tensor]]] = field(default_factory=dict)
    inputs: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    before: dict[str, list[dict[str, torch.Tensor]]] = field(default_factory=dict)
    after: dict[str, list[torch.Tensor]] = field(default_factory=dict)


def run_watched(
    reference: Reference,
    inputs: Arrays,
    adapter: Adapter | None,
    sites: Iterable[Site],
    *,
    on: bool,
    rounding: int = 0,
) -> PyTorchValues:
    """Runs a case, and returns the values at all modules and sites.

    Args:
        reference: The model.
        inputs: Arrays by name.
        adapter: The adapter; None for the base model.
        sites: The sites of the bundle, besides those of the adapter.
        on: Whether the body of the adapter acts. Its task head is used in any case.
        rounding: 0 for the model as it is; another number for another rounding, see `Reference.case`.
    """
    values, case = PyTorchValues(), reference.case(inputs, rounding)
    own = {site: site_adapter.operator.reads for site, site_adapter in adapter.sites.items()} if adapter else {}
    names = {site.name for site in own}
    reads = {**own, **{site: ("u", "y") for site in sites if site.name not in names}}
    module = reference.base.module
    handles: list[Any] = []
    try:
        # Hooks run in the order in which they are registered: these before those of the adapter.
        for site, names_read in reads.items():
            handles.extend(attach(module, site, names_read, _kept(values.before.setdefault(site.name, []))))
        case.use_head(adapter)
        with case.injected(adapter) if adapter is not None and on else nullcontext():
            for site in reads:
                plain = Site(site.module, site.port)
                handles.extend(attach(module, plain, (), _kept_result(values.after.setdefault(site.name, []))))
            handles.extend(_watch_inputs(module, values))
            handles.extend(_watch_outputs(module, values))
            values.outputs = case.run()
    finally:
        remove_all(handles)
    return values


def _kept(found: list[dict[str, torch.Tensor]]) -> Any:
    def act(values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        # A model may change a value in place later.
        found.append({name: value.clone() for name, value in values.items()})
        return values["y"]

    return act


def _kept_result(found: list[torch.Tensor]) -> Any:
    def act(values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        found.append(values["y"].clone())
        return values["y"]

    return act


def _watch_inputs(model: Any, values: PyTorchValues) -> Iterator[Any]:
    import torch

    def hook_for(path: str) -> Any:
        def hook(_: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            given = [item for item in (*args, *kwargs.values()) if isinstance(item, torch.Tensor)]
            values.inputs.setdefault(path, []).extend(item.clone() for item in given[:1])

        return hook

    for path, module in model.named_modules():
        yield module.register_forward_pre_hook(hook_for(path), with_kwargs=True)


def _watch_outputs(model: Any, values: PyTorchValues) -> Iterator[Any]:
    import torch

    def hook_for(path: str) -> Any:
        def hook(_: Any, __: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Mapping):
                output = tuple(output.values())
            items = output if isinstance(output, list | tuple) else [output]
            tensors = [item.clone() for item in items if isinstance(item, torch.Tensor)]
            values.modules.setdefault(path, []).append(tensors)

        return hook

    for path, module in model.named_modules():
        yield module.register_forward_hook(hook_for(path))
