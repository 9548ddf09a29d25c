"""`adapter-export onnx`: makes a bundle from a base model and adapters."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from adapter_export.bundle.manifest import SLOTS, Manifest
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.export.bundle import write_bundle
from adapter_export.export.lower import Lowered
from adapter_export.export.modes import lower_mode
from adapter_export.export.prepare import prepare
from adapter_export.export.request import ExportRequest
from adapter_export.export.trace import MIN_OPSET
from adapter_export.outputs.folder import output_folder
from adapter_export.reading.links import follows_links

_log = logging.getLogger(__name__)
Progress = Callable[[str], None]


@follows_links("model", "adapters")
def export_onnx(
    model: str | Path,
    adapters: Mapping[str, str | Path],
    output: str | Path,
    *,
    mode: str,
    task: str = "auto",
    cache: bool = True,
    opset: int = MIN_OPSET,
    dtype: str = "fp32",
    quantize: str = "none",
    fuse: str = "none",
    bind: str = "initializer",
    slots: int = SLOTS,
    labels: Mapping[str, Sequence[str]] = MappingProxyType({}),
    tokenizer: bool = True,
    force: bool = False,
    progress: Progress | None = None,
    follow_links: bool = False,
) -> Manifest:
    """Exports a base model and adapters as a bundle.

    Args:
        model: Folder of the base model, or `org/name[@revision]` of the Hugging Face hub.
        adapters: Folders of the checkpoints by the names of the adapters.
        output: Folder of the bundle.
        mode: `merged` (one adapter or none), `embedded` (exactly one), `swappable` or `bank` (any number from one).
        task: A task, or `auto` for the task that the adapters state or, if they state none, the base model's.
            `features` leaves task heads out. A task that contradicts an adapter is refused.
        cache: Decoders only; False exports a scoring graph without a key-value cache.
        opset: Version of the ONNX standard.
        dtype: `fp32`, `fp16` or `bf16`.
        quantize: `none`, `int8` or `int4`.
        fuse: The provider for whose fused operators the graphs are made: `none`, `cpu` or `cuda`.
        bind: In mode swappable, `initializer`, or `input` to make adapter tensors required inputs.
        slots: In mode bank, how many adapters a runtime has in memory at once.
        labels: Class names by adapter, in place of those of the checkpoint. An adapter without either has the class
            names of the base model, if their number fits.
        tokenizer: Whether to include the tokenizer. A bundle without one takes token ids only.
        force: Whether to replace a bundle that exists at `output`.
        progress: Called with a description of each step when it begins.
        follow_links: Whether symbolic links in the folders of the model and the adapters may lead out of them.

    Returns:
        The manifest of the bundle.

    Raises:
        InputError: The input is wrong. `output` has not changed then.
        OutputExists: `output` exists already.
        CannotMerge: An adapter cannot be merged.
    """
    request = ExportRequest.parse(
        model, adapters, mode=mode, task=task, cache=cache, opset=opset, dtype=dtype, quantize=quantize, fuse=fuse,
        bind=bind, slots=slots, labels=labels, tokenizer=tokenizer,
    )  # fmt: skip
    say = progress or (lambda text: None)
    with output_folder(output, force, inputs=request.folders) as written:
        prepared = prepare(request, written.folder, output, say)
        base, graphs = lower_mode(
            prepared.base,
            prepared.adapters,
            request.mode,
            opset,
            prepared.stages,
            request.target,
            request.binding,
            say,
        )
        loaded = prepared.adapters
        if not request.mode.in_graph:
            loaded = {name: _without_idle(name, adapter, graphs) for name, adapter in loaded.items()}
        say("writing and checking the bundle")
        manifest = write_bundle(
            written.folder,
            base,
            graphs,
            request.mode,
            loaded,
            request.target,
            slots,
            request.binding,
            prepared.tokenizer,
            request.task_asked,
            request.adapters,
        )
        written.commit()
        return manifest


def _without_idle(name: str, adapter: Adapter, graphs: Mapping[str, Lowered]) -> Adapter:
    """Returns the adapter without sites that do not affect any output.

    An example is a pooling layer that the class of the task does not use. The graphs have no place for the tensors of
    such sites. If the graphs have no place for any site, all are kept, so that a later check reports the error.
    """
    known = {tensor.rpartition(".")[0] for graph in graphs.values() for info in graph.sites for tensor in info.tensors}
    kept = {
        site: site_adapter
        for site, site_adapter in adapter.sites.items()
        if f"{site.name}.{site_adapter.operator.op_name}" in known
    }
    if not kept or len(kept) == len(adapter.sites):
        return adapter
    idle = ", ".join(site.name for site in adapter.sites if site not in kept)
    _log.warning("adapter %s: no output of the graph reads %s: left out, without effect", name, idle)
    return replace(adapter, sites=kept)
