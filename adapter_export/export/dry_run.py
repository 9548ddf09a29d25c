"""`adapter-export onnx --dry-run`: everything that an export checks before it traces, and what it would write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from adapter_export.bundle.adapter_file import adapter_tensors
from adapter_export.bundle.manifest import MANY, SLOTS
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.planned import AdapterPlan, plan_of
from adapter_export.export.export import inputs_of, least_bytes, prepare, union_of_sites, with_own
from adapter_export.export.target import Target
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
        quantize: `none` or `int8`.
        fuse: Provider whose fused operators the graphs would have, or `none`.
        bind: How the graph would take adapter tensors.
        slots: How many adapters a session of a bank would hold at once; None in other modes.
        opset: Version of the ONNX operators.
        graphs: Files of the graphs.
        tokenizer: Whether the bundle would have a tokenizer.
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
        quantize: `none` or `int8`.
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
        folder, paths = inputs_of(model, adapters, mode, opset, slots, bind)
        target = Target(dtype, quantize, fuse)
        disk = check_output(output, force, inputs=[folder, *paths.values()])
        prepared = prepare(folder, paths, target, task, cache, labels, tokenizer, lambda _text: None, disk, output)
        loaded = prepared.adapters
        sites = union_of_sites(loaded.values())
        for adapter in loaded.values():
            adapter_tensors(adapter)
        if mode not in MANY:
            with_own(prepared.base, loaded, mode)
    weights = least_bytes(folder, target)
    return ExportPlan(
        Path(output),
        mode,
        prepared.base.task,
        prepared.base.info.architecture,
        target.dtype_name,
        quantize,
        fuse,
        bind,
        slots if mode == "bank" else None,
        opset,
        tuple(prepared.stages),
        prepared.tokenizer is not None,
        tuple(plan_of(name, adapter) for name, adapter in loaded.items()),
        len(sites),
        weights + sum(_bytes(adapter, target) for adapter in loaded.values() if mode != "merged"),
        tuple(notes),
    )


def _bytes(adapter: Adapter, target: Target) -> int:
    return adapter.parameters * (4 if target.dtype_name == "float32" else 2)
