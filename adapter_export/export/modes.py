"""How each mode is made from a base model and adapters: which storage its graphs have, and what is traced for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

from adapter_export.basemodel import BaseModel
from adapter_export.bundle.adapter_file import adapter_tensors, tensors_by_operator
from adapter_export.bundle.graphs import MODEL
from adapter_export.bundle.modes import Binding, Mode
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.errors import InputError
from adapter_export.export.bank import Bank
from adapter_export.export.head import head_defaults
from adapter_export.export.lower import Lowered, lower, share_tensors
from adapter_export.export.stage import StageOf
from adapter_export.export.stages import scoring
from adapter_export.export.storage import Constants, Overridable, Required, Storage
from adapter_export.export.target import Target
from adapter_export.export.trace import FP32, MIN_OPSET, Trace, trace
from adapter_export.injection import load_head
from adapter_export.merging.model import merge_into
from adapter_export.methods.contract import Operator
from adapter_export.sites import Site

Sites = Mapping[Site, Sequence[Operator]]
Progress = Callable[[str], None]


def lower_mode(
    base: BaseModel,
    adapters: Mapping[str, Adapter],
    mode: Mode,
    opset: int = MIN_OPSET,
    stages: Mapping[str, StageOf] = MappingProxyType({MODEL: scoring}),
    target: Target = FP32,
    bind: Binding = Binding.INITIALIZER,
    progress: Progress = lambda text: None,
) -> tuple[BaseModel, dict[str, Lowered]]:
    """Traces the stages of a base model, each once, and lowers the traces to a mode.

    Args:
        base: The base model, loaded at the target's dtype. In modes merged and embedded, its task head becomes the
            adapter's.
        adapters: The adapters by name.
        mode: How the graphs hold them.
        opset: Version of the ONNX standard.
        stages: The stages by the file of their graph.
        target: What the graphs are made for.
        bind: How the graphs take adapter tensors, mode swappable only.
        progress: Called with a description of each step when it begins.

    Returns:
        The base model as exported, and the graphs by file.

    Raises:
        InputError: The model cannot be traced, or the adapters do not fit it or each other.
        CannotMerge: An adapter cannot be merged.
    """
    tracer = _Tracer(base, stages, opset, target, progress)
    return _LOWERING[mode](tracer, adapters, bind)


@dataclass(frozen=True)
class _Tracer:
    base: BaseModel
    stages: Mapping[str, StageOf]
    opset: int
    target: Target
    progress: Progress

    def trace(self, file: str, sites: Sites, head: Sequence[str] = ()) -> Trace:
        self.progress(f"tracing {file}")
        return trace(self.base, sites, head, self.opset, stage=self.stages[file], target=self.target)

    def with_head_of(self, adapter: Adapter) -> _Tracer:
        """Replaces the base model's task head by the adapter's, if it has one, and returns a tracer for the result."""
        if not adapter.head or not self.base.info.head:
            return self
        load_head(self.base.module, adapter)
        return replace(self, base=replace(self.base, untrained_head=False))


class _Lowering(Protocol):
    """Makes the graphs of one mode."""

    def __call__(
        self, tracer: _Tracer, adapters: Mapping[str, Adapter], bind: Binding
    ) -> tuple[BaseModel, dict[str, Lowered]]: ...


def _merged(tracer: _Tracer, adapters: Mapping[str, Adapter], bind: Binding) -> tuple[BaseModel, dict[str, Lowered]]:
    for adapter in adapters.values():
        tracer = tracer.with_head_of(adapter)
        merge_into(tracer.base.module, adapter)
    return tracer.base, {file: lower(tracer.trace(file, {}), {}) for file in tracer.stages}


def _embedded(tracer: _Tracer, adapters: Mapping[str, Adapter], bind: Binding) -> tuple[BaseModel, dict[str, Lowered]]:
    (adapter,) = adapters.values()
    tracer = tracer.with_head_of(adapter)
    sites = union_of_sites([adapter])
    storage = Constants(adapter_tensors(adapter))
    return tracer.base, {file: lower(tracer.trace(file, sites), sites, storage) for file in tracer.stages}


def _swappable(tracer: _Tracer, adapters: Mapping[str, Adapter], bind: Binding) -> tuple[BaseModel, dict[str, Lowered]]:
    if bind.required:
        # The graphs do not share tensors, because an input that a graph does not read would still be required.
        return tracer.base, _with_adapters_outside(tracer, adapters, Required())
    return tracer.base, share_tensors(_with_adapters_outside(tracer, adapters, Overridable()))


def _bank(tracer: _Tracer, adapters: Mapping[str, Adapter], bind: Binding) -> tuple[BaseModel, dict[str, Lowered]]:
    storage = Bank([tensors_by_operator(adapter) for adapter in adapters.values()])
    return tracer.base, _with_adapters_outside(tracer, adapters, storage)


_LOWERING: Mapping[Mode, _Lowering] = {
    Mode.MERGED: _merged,
    Mode.EMBEDDED: _embedded,
    Mode.SWAPPABLE: _swappable,
    Mode.BANK: _bank,
}


def _with_adapters_outside(tracer: _Tracer, adapters: Mapping[str, Adapter], storage: Storage) -> dict[str, Lowered]:
    sites = union_of_sites(adapters.values())
    head = tracer.base.info.head
    defaults = head_defaults(tracer.base)
    last = head[-1] if head else None
    return {file: lower(tracer.trace(file, sites, head), sites, storage, defaults, last) for file in tracer.stages}


def union_of_sites(adapters: Iterable[Adapter]) -> dict[Site, list[Operator]]:
    """Returns every site of any of the adapters with its different operators, in a stable order.

    Raises:
        InputError: Two adapters read different modules for the same tensors. One graph can compute only one of them.
    """
    sites: dict[Site, list[Operator]] = {}
    owners: dict[tuple[str, str], Site] = {}
    for adapter in adapters:
        for site, block in adapter.blocks.items():
            other = owners.setdefault((site.name, block.operator.op_type), site)
            if other != site:
                raise InputError(
                    f"site {site.name}: one adapter reads {site.reads}, another {other.reads}; export them as bundles "
                    "of their own"
                )
            stack = sites.setdefault(site, [])
            if block.operator not in stack:
                stack.append(block.operator)
    return {site: sorted(stack, key=lambda operator: operator.op_type) for site, stack in sites.items()}
