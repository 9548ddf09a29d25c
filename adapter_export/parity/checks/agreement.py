"""Compares our own reading of a checkpoint with that of its witness: both must give the same outputs in float64."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.parity.cases import kept_positions
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.recording.subject import Subject, named_tensors
from adapter_export.parity.references.pytorch import Reference
from adapter_export.parity.references.records import Record
from adapter_export.parity.references.witness import Witnesses, run_witness
from adapter_export.parity.report import ParityCheck

if TYPE_CHECKING:
    from torch import nn

# Largest relative difference of two float64 runs in one process. Rounding alone gives 1e-15 to 1e-13.
SAME_PROCESS = 1e-9
# Largest relative difference from a record. Records are made with other versions of PyTorch and transformers, which
# compute some constants in float32.
RECORDED = 2e-6

Arrays = Mapping[str, np.ndarray]


def check_base(own: Reference, witnesses: Witnesses, inputs: Arrays) -> ParityCheck:
    """Checks our base model against the one that transformers loads from a folder with the model's own files only.

    Args:
        own: Our models in float64.
        witnesses: The witnesses, with the base model as transformers loads it.
        inputs: Arrays by name.
    """
    if witnesses.base is None:
        return ParityCheck("base", Verdict.PASS, "not compared: transformers has no class of its own for this task")
    # Modules without weights in the checkpoint are random in both models. They affect no output that is judged.
    _copy_parameters(own.base.module.base_model, witnesses.base.body, (*own.base.info.unread, *own.base.info.untrained))
    where = first_difference(
        module_outputs(own, None, inputs), witness_module_outputs(witnesses.base, inputs, on=False)
    )
    if where is None:
        return ParityCheck("base", Verdict.PASS, f"as {witnesses.base.witness} loads it alone")
    return ParityCheck(
        "base", Verdict.FAIL, f"{witnesses.base.witness} loads it otherwise: the first difference is at {where}"
    )


def _copy_parameters(source: nn.Module, target: nn.Module, modules: Iterable[str]) -> None:
    """Copies the parameters of some modules. Modules that `target` lacks are skipped.

    The parameters of `target` are replaced, not overwritten: other models may share its old tensors.

    Args:
        source: The model to read.
        target: The model to change.
        modules: Paths of the modules.
    """
    from torch import nn

    targets = dict(target.named_modules())
    for path in modules:
        for name, value in source.get_submodule(path).named_parameters() if path in targets else ():
            parent, _, last = name.rpartition(".")
            copy = nn.Parameter(value.detach().clone(), requires_grad=False)
            setattr(targets[path].get_submodule(parent), last, copy)


def check_agreement(
    own: Reference, adapters: Mapping[str, Adapter], witnesses: Witnesses, inputs: Arrays
) -> ParityCheck:
    """Checks that our injection gives the same outputs as the witness, with each adapter that has one.

    Args:
        own: Our models in float64.
        adapters: The adapters as our own code reads them, by name.
        witnesses: The witnesses.
        inputs: Arrays by name.
    """
    for name, fault in witnesses.faults.items():
        return ParityCheck(
            "witness", Verdict.FAIL, f"adapter {name}: PEFT takes only a part of the checkpoint: {fault}"
        )
    distances = []
    for name, subject in witnesses.subjects.items():
        actual, expected = own.case(inputs).on(adapters[name]), run_witness(subject, inputs, on=True)
        distance = relative_distance(actual, expected, inputs)
        if distance == math.inf:
            detail = (
                f"adapter {name}: {subject.class_name} of {subject.witness} gives {_shapes(expected)}, ours "
                f"{_shapes(actual)}"
            )
            return ParityCheck("witness", Verdict.FAIL, detail)
        if not distance <= SAME_PROCESS:
            detail = _describe_difference(own, name, adapters[name], subject, inputs, distance)
            return ParityCheck("witness", Verdict.FAIL, detail)
        distances.append(distance)
    if not distances:
        return ParityCheck("witness", Verdict.PASS, "none runs here")
    return ParityCheck(
        "witness", Verdict.PASS, f"{len(distances)} read as their own library does, to {max(distances):.0e}"
    )


def _shapes(outputs: Arrays) -> str:
    return ", ".join(f"{name} {list(value.shape)}" for name, value in outputs.items())


def _describe_difference(
    own: Reference, name: str, adapter: Adapter, subject: Subject, inputs: Arrays, distance: float
) -> str:
    where = first_difference(module_outputs(own, adapter, inputs), witness_module_outputs(subject, inputs, on=True))
    return (
        f"adapter {name}: the checkpoint is read otherwise than {subject.witness} reads it, {distance:.1e} apart; the "
        f"first difference is at {where or 'the task head'}"
    )


def check_record_agreement(own: Reference, adapter: Adapter, record: Record) -> ParityCheck:
    """Checks that our injection gives the outputs of a record, for the largest case of the record."""
    case = max(record.cases.values(), key=lambda item: (item.batch, item.length))
    inputs = record.inputs(case)
    distance = relative_distance(own.case(inputs).on(adapter), record.outputs(case, "on"), inputs)
    detail = f"adapter {case.adapter}: our reading is {distance:.0e} from what {record.witness} recorded"
    return ParityCheck("record", Verdict.PASS if distance <= RECORDED else Verdict.FAIL, detail)


def relative_distance(actual: Arrays, expected: Arrays, inputs: Arrays) -> float:
    """Returns max|actual - expected| / rms(expected) over the outputs that both have, without padded positions.

    Infinity if they have no output in common, or an output with different shapes.

    Args:
        actual: Outputs by name.
        expected: Outputs by name.
        inputs: The inputs, with the mask of the padding.
    """
    common = [name for name in actual if name in expected]
    if not common or any(actual[name].shape != expected[name].shape for name in common):
        return math.inf
    return max(
        _relative_distance(*(_without_padding(inputs, outputs[name]) for outputs in (actual, expected)))
        for name in common
    )


def _without_padding(inputs: Arrays, output: np.ndarray) -> np.ndarray:
    kept = kept_positions(inputs, output)
    return output if kept is None else output[kept]


def _relative_distance(actual: np.ndarray, expected: np.ndarray) -> float:
    # A row of padding alone may give NaN in both models. These values are ignored.
    both_nan = np.isnan(actual) & np.isnan(expected)
    actual, expected = actual[~both_nan], expected[~both_nan]
    if not expected.size:
        return 0.0
    return float(np.abs(actual - expected).max() / max(np.sqrt(np.square(expected).mean()), 1e-30))


def module_outputs(own: Reference, adapter: Adapter | None, inputs: Arrays) -> dict[str, np.ndarray]:
    """Returns the output of each module of our base model by path, in the order of computation."""
    case = own.case(inputs)
    # The hooks of an injected adapter change the output of a module. Only hooks that are registered after them see the
    # change, so the adapter is injected first.
    with case.injected(adapter) if adapter else nullcontext(), _recorded_outputs(own.base.module.base_model) as outputs:
        case.run()
    return outputs


def witness_module_outputs(subject: Subject, inputs: Arrays, *, on: bool) -> dict[str, np.ndarray]:
    """Returns the output of each module of a witness's model by path, in the order of computation."""
    with _recorded_outputs(subject.body) as outputs:
        run_witness(subject, inputs, on=on)
    return outputs


def first_difference(actual: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> str | None:
    """Returns the first module whose outputs differ, inner modules before outer ones; None if all agree.

    Args:
        actual: Outputs by module path, in the order of computation.
        expected: Outputs by module path.
    """
    if not set(actual) & set(expected):
        return "the names of the modules, of which the two have none in common"
    for path, value in actual.items():
        other = expected.get(path)
        if other is not None and (other.shape != value.shape or not _relative_distance(value, other) <= SAME_PROCESS):
            return f"module {path!r}" if path else "the body's output"
    return None


@contextmanager
def _recorded_outputs(body: nn.Module) -> Iterator[dict[str, np.ndarray]]:
    """Returns a context in which the first output of each module is stored, by path, in the order of computation."""
    outputs: dict[str, np.ndarray] = {}

    def hook_for(path: str) -> Any:
        def hook(_: nn.Module, args: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) and output else output
            values = dict(named_tensors({"first": first})) if first is not None else {}
            # Of a module that runs several times, as in ALBERT, the last run is compared.
            if "first" in values:
                outputs.pop(path, None)
                outputs[path] = values["first"].copy()

        return hook

    handles = [module.register_forward_hook(hook_for(path)) for path, module in body.named_modules()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
