"""The measurements of one architecture, as JSON has them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export.architectures.registry import model_types
from adapter_export.bundle.adapter_file import adapter_tensors
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.errors import AdapterExportError, CannotMerge
from adapter_export.export.head import head_defaults
from adapter_export.export.lower import Lowered, lower
from adapter_export.export.modes import union_of_sites
from adapter_export.export.storage import Constants, Overridable
from adapter_export.export.trace import trace
from adapter_export.merging.model import merge_into
from adapter_export.models.base_model import BaseModel, load_base
from adapter_export.models.heads import load_head
from adapter_export.models.injection import inject
from adapter_export.parity.cases import kept_positions
from adapter_export.parity.references.pytorch import ModelOutputs, Reference
from benchmarks.architectures.page import ADAPTERS, tasks_of
from tests import tiny

# Rows and tokens the graphs run with; the traces have 3 and 9.
SHAPES = ((1, 1), (1, 5), (2, 17))
# Below this, relative to the output's size, an adapter would not show a mistake.
LEAST_EFFECT = 0.01


def versions() -> dict[str, str]:
    """What the numbers depend on."""
    import onnxruntime

    # By its module: the package has one of two names.
    return {"onnxruntime": onnxruntime.__version__, **{name: version(name) for name in ("torch", "transformers")}}


def missing(numbers: Mapping[str, Any]) -> list[str]:
    """Architectures without numbers of the installed versions, of every task and of every adapter."""
    return [name for name in model_types() if not _is_current(name, numbers.get(name, {}))]


def _is_current(model_type: str, entry: Mapping[str, Any]) -> bool:
    return (
        entry.get("versions") == versions()
        and set(entry["tasks"]) == set(tasks_of(model_type))
        and set(entry["pytorch"]) == set(ADAPTERS)
    )


def measure(model_type: str) -> dict[str, Any]:
    """Everything the page says of one architecture; a string in place of a number says why there is none."""
    with tempfile.TemporaryDirectory(prefix="architectures-") as folder:
        models = {task: Path(folder) / task for task in tasks_of(model_type)}
        for task, path in models.items():
            tiny.save_model(path, model_type, task, tiny.LABELS, {})
        first = tasks_of(model_type)[0]
        adapters = _adapters(load_base(models[first], first))
        return {
            "versions": versions(),
            "pytorch": {name: _in_pytorch(models[first], first, adapter) for name, adapter in adapters.items()},
            "tasks": {task: _exports(path, task, merged=task == first) for task, path in models.items()},
        }


def _adapters(base: BaseModel) -> dict[str, Adapter]:
    return {
        name: tiny.random_adapter(base.info, method, seed, labels=("a", "b"), **options)
        for seed, (name, (method, options)) in enumerate(ADAPTERS.items())
    }


def _in_pytorch(path: Path, task: str, adapter: Adapter) -> dict[str, Any]:
    """sites, whether training reaches every tensor, and the error of merging in float64."""
    import torch

    exact = load_base(path, task, dtype=torch.float64)
    inputs = tiny.inputs_for(exact.info.model_type)
    return {
        "sites": len(adapter.sites),
        "trains": _trains(load_base(path, task), adapter, inputs),
        "merges": _merges(exact, adapter, inputs),
    }


def _trains(base: BaseModel, adapter: Adapter, inputs: Mapping[str, np.ndarray]) -> bool:
    import torch

    injection = inject(base.module, adapter)
    found = base.module(**{name: torch.from_numpy(value) for name, value in inputs.items()})
    total = sum(value.square().mean() for value in found.values() if isinstance(value, torch.Tensor))
    total.backward()
    trained = [value for site in injection.parameters.values() for value in site.values()]
    reached = all(value.grad is not None and bool(value.grad.any()) for value in trained)
    injection.remove()
    return reached and all(value.grad is None for value in base.module.parameters())


def _merges(exact: BaseModel, adapter: Adapter, inputs: Mapping[str, np.ndarray]) -> float | str:
    unmerged = Reference(exact).case(inputs).on(adapter)
    try:
        merge_into(exact.module, adapter)
    except CannotMerge as error:
        return str(error)
    load_head(exact.module, adapter)
    return _error(Reference(exact).case(inputs).off(), unmerged, inputs)


def _exports(path: Path, task: str, merged: bool) -> dict[str, Any]:
    """The largest error of each adapter in each mode."""
    base = load_base(path, task)
    adapters = _adapters(base)
    mergeable = [name for name, adapter in adapters.items() if merged and _can_merge(adapter)]
    found: dict[str, Any] = {name: {} for name in adapters}
    try:
        modes = dict(_lowered(base, adapters))
    except AdapterExportError as error:
        # Nor can the model be traced without markers: the reason is one of the model's own.
        reason = str(error).removeprefix(f"model {path}: ")
        modes_of = {name: ("embedded", "swappable", *(["merged"] if name in mergeable else [])) for name in found}
        return {name: dict.fromkeys(modes, reason) for name, modes in modes_of.items()}
    for (name, mode), lowered in modes.items():
        found[name][mode] = _graph_error(path, task, adapters[name], lowered, mode)
    for name in mergeable:
        changed = load_base(path, task)
        merge_into(changed.module, adapters[name])
        load_head(changed.module, adapters[name])
        found[name]["merged"] = _graph_error(path, task, adapters[name], lower(trace(changed, {}), {}), "merged")
    return found


def _can_merge(adapter: Adapter) -> bool:
    return all(item.operator.unmergeable(site.port) is None for site, item in adapter.sites.items())


def _lowered(base: BaseModel, adapters: Mapping[str, Adapter]) -> Iterator[tuple[tuple[str, str], Lowered]]:
    sites = union_of_sites(adapters.values())
    traced, defaults = trace(base, sites, base.info.head), head_defaults(base)
    last = base.info.head[-1] if base.info.head else None
    swappable = lower(traced, sites, Overridable(), defaults, last)
    for name, adapter in adapters.items():
        yield (name, "swappable"), swappable
        constants = Constants(adapter_tensors(adapter))
        yield (name, "embedded"), lower(traced, union_of_sites([adapter]), constants, defaults, last)


def _graph_error(path: Path, task: str, adapter: Adapter, lowered: Lowered, mode: str) -> float | str:
    import onnx_ir as ir
    import onnxruntime as ort
    import torch

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        ir.serde.serialize_model(lowered.model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_inputs()]
    reference = Reference(load_base(path, task, dtype=torch.float64))
    errors = []
    for rows, length in SHAPES:
        made = tiny.inputs_for(reference.base.info.model_type, rows=rows, length=length, seed=rows)
        inputs = {name: made[name] if name in made else np.zeros_like(made["input_ids"]) for name in names}
        tensors = adapter_tensors(adapter) if mode == "swappable" else {}
        case = reference.case(inputs)
        on, off = case.on(adapter), case.off(adapter)
        outputs = [name for name in on if name in {value.name for value in session.get_outputs()}]
        try:
            actual = dict(zip(outputs, session.run(outputs, {**inputs, **tensors}), strict=True))
        except Exception as error:  # ONNX Runtime's errors have no common class
            return f"ONNX Runtime at {rows} x {length}: {' '.join(str(error).split())[:300]}"
        if _error(off, on, inputs) < LEAST_EFFECT:
            return "the adapter makes no difference that could be measured"
        errors.append(_error(actual, on, inputs))
    return max(errors)


def _error(actual: ModelOutputs, reference: ModelOutputs, inputs: Mapping[str, np.ndarray]) -> float:
    """max|actual - reference| / rms(reference), over unpadded positions; the largest of the outputs."""
    errors = []
    for name, expected in reference.items():
        if name in actual:
            kept = kept_positions(inputs, expected)
            a, r = (array if kept is None else array[kept] for array in (actual[name].astype(np.float64), expected))
            errors.append(float(np.abs(a - r).max() / np.sqrt(np.mean(r**2))))
    return max(errors)
