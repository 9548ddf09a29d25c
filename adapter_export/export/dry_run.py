"""`adapter-export onnx --dry-run`: everything that an export checks before it traces, and what it would write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from adapter_export.bundle.adapter_file import adapter_tensors
from adapter_export.bundle.manifest import SLOTS
from adapter_export.bundle.modes import Mode
from adapter_export.checkpoints.licenses import license_files, stated
from adapter_export.checkpoints.planned import AdapterPlan, plan_of
from adapter_export.export.modes import union_of_sites, with_own
from adapter_export.export.prepare import least_bytes, prepare
from adapter_export.export.request import ExportRequest
from adapter_export.export.trace import MIN_OPSET
from adapter_export.outputs.folder import check_output
from adapter_export.outputs.notes import gathered_notes
from adapter_export.reading.links import follows_links


@dataclass(frozen=True)
class ExportPlan:
    """What an export would do.

    Attributes:
        output: Folder that it would write.
        mode: How the bundle would hold its adapters.
        task: Task of the bundle.
        architecture: Class of the base model.
        dtype: dtype of weights and adapters.
        quantize: `none`, `int8` or `int4`.
        fuse: Provider whose fused operators the graphs would have, or `none`.
        bind: How the graph would take adapter tensors.
        slots: How many adapters a session of a bank would hold at once; None in other modes.
        opset: Version of the ONNX operators.
        graphs: Files of the graphs.
        tokenizer: Whether the bundle would have a tokenizer.
        base_license: The license that README.md of the base model states; None if it states none.
        adapters: The adapters, with their sites. Sites that no output reads are known only after tracing.
        sites: Number of different sites of all adapters.
        bytes: Size of the weights and of the adapters, at least.
        notes: What the export would tell beside its result.
    """

    output: Path
    mode: str
    task: str
    architecture: str
    dtype: str
    quantize: str
    fuse: str
    bind: str
    slots: int | None
    opset: int
    graphs: tuple[str, ...]
    tokenizer: bool
    base_license: str | None
    adapters: tuple[AdapterPlan, ...]
    sites: int
    bytes: int
    notes: tuple[str, ...]


@follows_links("model", "adapters")
def plan_export(
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
    follow_links: bool = False,
) -> ExportPlan:
    """Checks everything that `export_onnx` checks before it traces, with the same errors, and writes nothing.

    The base model is loaded. What `org/name` of the Hugging Face hub names is fetched into the hub's own cache.

    Args:
        model: Folder of the base model.
        adapters: Folders of checkpoints by the adapter's name.
        output: Folder that the export would write.
        mode: How the bundle would hold its adapters.
        task: Task of the bundle, or `auto`.
        cache: Whether the graphs of a decoder would have a key-value cache.
        opset: Version of the ONNX operators.
        dtype: `fp32`, `fp16` or `bf16`.
        quantize: `none`, `int8` or `int4`.
        fuse: `none`, `cpu` or `cuda`.
        bind: `initializer` or `input`.
        slots: In mode bank, how many adapters a session would hold at once.
        labels: Class names by adapter.
        tokenizer: Whether the bundle would have a tokenizer.
        force: Whether the export may replace an earlier output.
        follow_links: Whether symbolic links in the folders of the model and of the adapters may lead out of them.

    Returns:
        What would be done.

    Raises:
        CannotMerge: Mode merged would refuse, for this reason.
        InputError: The export would find bad input.
    """
    with gathered_notes() as notes:
        request = ExportRequest.parse(
            model, adapters, mode=mode, task=task, cache=cache, opset=opset, dtype=dtype, quantize=quantize, fuse=fuse,
            bind=bind, slots=slots, labels=labels, tokenizer=tokenizer,
        )  # fmt: skip
        disk = check_output(output, force, inputs=request.folders)
        prepared = prepare(request, disk, output, lambda _text: None)
        loaded = prepared.adapters
        sites = union_of_sites(loaded.values())
        for adapter in loaded.values():
            adapter_tensors(adapter)
        if request.mode.in_graph:
            with_own(prepared.base, loaded, request.mode)
        base_license = stated(request.folder).license
        for folder in request.folders:
            license_files(folder)
    target = request.target
    # A bank has its adapters in the graph and in files.
    copies = 0 if request.mode is Mode.MERGED else 2 if request.mode.per_row else 1
    values = copies * sum(adapter.parameters for adapter in loaded.values())
    return ExportPlan(
        Path(output),
        request.mode,
        prepared.base.task,
        prepared.base.info.architecture,
        target.dtype.dtype,
        target.quantize,
        target.fuse,
        request.binding,
        slots if request.mode.per_row else None,
        opset,
        tuple(prepared.stages),
        prepared.tokenizer is not None,
        base_license,
        tuple(plan_of(name, adapter) for name, adapter in loaded.items()),
        len(sites),
        least_bytes(request.folder, target) + values * target.dtype.value_bytes,
        tuple(notes),
    )
