"""One case: every reference and every run of it, measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from adapter_export import tasks
from adapter_export.bundle.adapter_file import HEAD_SLUG
from adapter_export.bundle.manifest import Manifest
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.parity.bundle_runner import BundleRunner, attempt
from adapter_export.parity.cases import kept_positions
from adapter_export.parity.float64_reference import Float64Reference
from adapter_export.parity.measure import Measurement, OutputArrays, OutputSet, measure
from adapter_export.parity.reference import Reference
from adapter_export.parity.report import NO_ADAPTER
from adapter_export.parity.separate_rows import Runs as Case
from adapter_export.parity.separate_rows import SeparateRows
from adapter_export.parity.whole_model import whole_model_outputs

Arrays = Mapping[str, np.ndarray]
# R, each T, and O by output name. A text in place of O says why it did not run, None that the graph cannot run so.
Runs = tuple[Arrays, Sequence[Arrays], Arrays | str | None]


class CaseRunner:
    """Measures all adapters, and the graph without any, one case at a time.

    exact: R in float64, by witnesses and by us. target: PyTorch at the graph's dtype (T). runner: ONNX Runtime (O).
    alone: whether R and T run each row by itself, of models that PyTorch gives other numbers beside longer rows.
    """

    def __init__(
        self,
        manifest: Manifest,
        exact: Float64Reference,
        target: Reference,
        runner: BundleRunner,
        adapters: Mapping[str, Adapter],
        alone: bool = False,
    ) -> None:
        self._alone = alone
        self._manifest = manifest
        self._exact = exact
        self._target = target
        self._runner = runner
        self._adapters = adapters
        # A base model without a task head of its own answers no labels: the last axis is empty.
        self._headless = manifest.labels is None and any(site.method == HEAD_SLUG for site in manifest.sites)

    def run(self, inputs: Arrays, roundings: int = 1) -> dict[tuple[str, str], Measurement]:
        """Measurements by adapter and output; NO_ADAPTER comes first, where the graph has that state.

        roundings: in how many ways T is computed, see `recording.precision`.
        """
        exact, runner = self._case(self._exact.case, inputs), self._runner
        targets = [self._case(partial(self._target.case, rounding=rounding), inputs) for rounding in range(roundings)]
        found: dict[str, dict[str, Measurement]] = {}
        if runner.has_off_state:
            base = exact.off(), [target.off() for target in targets], attempt(runner.off, inputs, None)
            measured = _measure_headless if self._headless else measure_outputs
            found[NO_ADAPTER] = measured(self._manifest, inputs, base)
        for name, adapter in self._adapters.items():
            on = exact.on(name), [target.on(adapter) for target in targets], attempt(runner.on, inputs, name)
            off_actual = attempt(runner.off, inputs, name) if runner.has_off_state else None
            off = exact.off(name), [target.off(adapter) for target in targets], off_actual
            found[name] = measure_outputs(self._manifest, inputs, on, off)
        return {(name, output): item for name, outputs in found.items() for output, item in outputs.items()}

    def _case(self, make: Callable[[Arrays], Case], inputs: Arrays) -> Case:
        return SeparateRows(make, inputs) if self._alone else make(inputs)


def measure_outputs(manifest: Manifest, inputs: Arrays, on: Runs, off: Runs | None = None) -> dict[str, Measurement]:
    """Measurements by output, those being the ones R has. off: None for a run without any adapter."""
    expected, outputs = list(on[0]), whole_model_outputs(manifest)
    for actual in (on[2], off[2] if off else None):
        if isinstance(actual, str):
            return _failed(expected, f"did not run: {actual}")
        if actual is not None and sorted(actual) != sorted(expected):
            return _failed(expected, f"outputs: expected {', '.join(expected)}, found {', '.join(actual)}")
    return {
        name: measure(
            OutputSet(
                on=_of(on, name),
                off=None if off is None else _of(off, name),
                kept=kept_positions(inputs, on[0][name]),
                dtype=outputs[name].dtype,
                classes=manifest.quantize != "none" and name == "logits",
            )
        )
        for name in expected
    }


def _measure_headless(manifest: Manifest, inputs: Arrays, runs: Runs) -> dict[str, Measurement]:
    """Point 1 without a task head: there are no labels to compare; what the body gives besides is compared."""
    reference, targets, actual = runs
    if not isinstance(actual, Mapping):
        return _failed(list(reference), f"did not run: {actual}")
    labelled = tasks.get(manifest.task).output
    expected = [*reference[labelled].shape[:-1], 0]
    found = list(actual[labelled].shape) if labelled in actual else None
    if found != expected:
        reason = f"without an adapter: expected no labels, {labelled} of shape {expected}, found {found}"
        return _failed(list(reference), reason)
    body = (
        _without(reference, labelled),
        [_without(target, labelled) for target in targets],
        _without(actual, labelled),
    )
    return {labelled: Measurement(), **measure_outputs(manifest, inputs, body)}


def _without(outputs: Arrays, name: str) -> Arrays:
    return {other: array for other, array in outputs.items() if other != name}


def _of(runs: Runs, name: str) -> OutputArrays:
    reference, targets, actual = runs
    assert not isinstance(actual, str)
    return OutputArrays(
        reference[name], tuple(target[name] for target in targets), None if actual is None else actual[name]
    )


def _failed(outputs: list[str], reason: str) -> dict[str, Measurement]:
    return {name: Measurement(fails=(reason,)) for name in outputs}
