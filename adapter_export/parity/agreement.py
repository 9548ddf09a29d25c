"""Our reading of a checkpoint against its witness': two ways to the same numbers, both in float64."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.parity.cases import kept_positions
from adapter_export.parity.judge import Verdict
from adapter_export.parity.recording.subject import Subject, named_tensors
from adapter_export.parity.records import Record
from adapter_export.parity.reference import Reference
from adapter_export.parity.report import Check
from adapter_export.parity.witness import Witnesses, run_witness

if TYPE_CHECKING:
    from torch import nn

# Of two float64 runs in one process; rounding alone gives 1e-15 to 1e-13.
SAME_PROCESS = 1e-9
# Of a record, made by other versions of PyTorch and transformers, which compute some constants in float32.
RECORDED = 2e-6

Arrays = Mapping[str, np.ndarray]


def check_base(own: Reference, witnesses: Witnesses, inputs: Arrays) -> Check:
    """The base model, as transformers alone loads it from a folder with nothing else in it, is the one judged with."""
    if witnesses.base is None:
        return Check("base", Verdict.PASS, "not compared: transformers has no class of its own for this task")
    # What the checkpoint has no weights for is random in both, and read by no output that is judged.
    _made_equal(own.base.module.base_model, witnesses.base.body, (*own.base.info.unread, *own.base.info.untrained))
    where = first_difference(watched(own, None, inputs), witnessed(witnesses.base, inputs, on=False))
    if where is None:
        return Check("base", Verdict.PASS, f"as {witnesses.base.witness} loads it alone")
    return Check(
        "base", Verdict.FAIL, f"{witnesses.base.witness} loads it otherwise: the first difference is at {where}"
    )


def _made_equal(ours: nn.Module, theirs: nn.Module, modules: Iterable[str]) -> None:
    """Give `theirs` our values in those of its modules that it has; others may share the tensors that it had."""
    from torch import nn

    known = dict(theirs.named_modules())
    for path in modules:
        for name, value in ours.get_submodule(path).named_parameters() if path in known else ():
            place, _, last = name.rpartition(".")
            setattr(known[path].get_submodule(place), last, nn.Parameter(value.detach().clone(), requires_grad=False))


def check_agreement(own: Reference, adapters: Mapping[str, Adapter], witnesses: Witnesses, inputs: Arrays) -> Check:
    """With each adapter our injection gives its witness' numbers."""
    for name, fault in witnesses.faults.items():
        return Check("witness", Verdict.FAIL, f"adapter {name}: PEFT takes only a part of the checkpoint: {fault}")
    distances = []
    for name, subject in witnesses.subjects.items():
        ours, theirs = own.case(inputs).on(adapters[name]), run_witness(subject, inputs, on=True)
        distance = apart(ours, theirs, inputs)
        if distance == math.inf:
            detail = (
                f"adapter {name}: {subject.class_name} of {subject.witness} gives {_form(theirs)}, ours {_form(ours)}"
            )
            return Check("witness", Verdict.FAIL, detail)
        if not distance <= SAME_PROCESS:
            return Check("witness", Verdict.FAIL, _otherwise(own, name, adapters[name], subject, inputs, distance))
        distances.append(distance)
    if not distances:
        return Check("witness", Verdict.PASS, "none runs here")
    return Check("witness", Verdict.PASS, f"{len(distances)} read as their own library does, to {max(distances):.0e}")


def _form(outputs: Arrays) -> str:
    return ", ".join(f"{name} {list(value.shape)}" for name, value in outputs.items())


def _otherwise(own: Reference, name: str, adapter: Adapter, subject: Subject, inputs: Arrays, distance: float) -> str:
    where = first_difference(watched(own, adapter, inputs), witnessed(subject, inputs, on=True))
    return (
        f"adapter {name}: the checkpoint is read otherwise than {subject.witness} reads it, {distance:.1e} apart; the "
        f"first difference is at {where or 'the task head'}"
    )


def check_record_agreement(own: Reference, adapter: Adapter, record: Record) -> Check:
    """Our injection gives a record's numbers for its own inputs."""
    case = max(record.cases.values(), key=lambda item: (item.batch, item.length))
    inputs = record.inputs(case)
    distance = apart(own.case(inputs).on(adapter), record.outputs(case, "on"), inputs)
    detail = f"adapter {case.adapter}: our reading is {distance:.0e} from what {record.witness} recorded"
    return Check("record", Verdict.PASS if distance <= RECORDED else Verdict.FAIL, detail)


def apart(ours: Arrays, theirs: Arrays, inputs: Arrays) -> float:
    """max|ours - theirs| / rms(theirs) over the outputs of both, at positions that are no padding; infinity without one
    in common, or with other shapes."""
    common = [name for name in ours if name in theirs]
    if not common or any(ours[name].shape != theirs[name].shape for name in common):
        return math.inf
    return max(_relative(*(_kept(inputs, outputs[name]) for outputs in (ours, theirs))) for name in common)


def _kept(inputs: Arrays, output: np.ndarray) -> np.ndarray:
    kept = kept_positions(inputs, output)
    return output if kept is None else output[kept]


def _relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    # What a row of padding alone gives may be NaN, in both.
    same = np.isnan(ours) & np.isnan(theirs)
    ours, theirs = ours[~same], theirs[~same]
    if not theirs.size:
        return 0.0
    return float(np.abs(ours - theirs).max() / max(np.sqrt(np.square(theirs).mean()), 1e-30))


def watched(own: Reference, adapter: Adapter | None, inputs: Arrays) -> dict[str, np.ndarray]:
    """What each module of our base model gives, by path, in the order of the computation."""
    case = own.case(inputs)
    # What an injected adapter makes of a module's output is seen only by who comes after it.
    with case.injected(adapter) if adapter else nullcontext(), _watch(own.base.module.base_model) as seen:
        case.run()
    return seen


def witnessed(subject: Subject, inputs: Arrays, *, on: bool) -> dict[str, np.ndarray]:
    """The same of a witness' model."""
    with _watch(subject.body) as seen:
        run_witness(subject, inputs, on=on)
    return seen


def first_difference(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> str | None:
    """The first module, innermost first, that gives something else in both; None where all of them agree."""
    if not set(ours) & set(theirs):
        return "the names of the modules, of which the two have none in common"
    for path, value in ours.items():
        other = theirs.get(path)
        if other is not None and (other.shape != value.shape or not _relative(value, other) <= SAME_PROCESS):
            return f"module {path!r}" if path else "the body's output"
    return None


@contextmanager
def _watch(body: nn.Module) -> Iterator[dict[str, np.ndarray]]:
    seen: dict[str, np.ndarray] = {}

    def hook(path: str) -> Any:
        def see(_: nn.Module, args: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) and output else output
            values = dict(named_tensors({"first": first})) if first is not None else {}
            # A module that runs several times (ALBERT's) is compared by its last run.
            if "first" in values:
                seen.pop(path, None)
                seen[path] = values["first"].copy()

        return see

    handles = [module.register_forward_hook(hook(path)) for path, module in body.named_modules()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
