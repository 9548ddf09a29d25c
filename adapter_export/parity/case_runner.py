"""Runs one case in PyTorch and in ONNX Runtime, and measures the outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from adapter_export import tasks
from adapter_export.bundle.manifest import Manifest
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.parity.bundle_runner import BundleRunner, attempt
from adapter_export.parity.cases import kept_positions
from adapter_export.parity.criteria.measure import Measurement, OutputArrays, OutputSet, measure
from adapter_export.parity.criteria.retries import ROUNDINGS
from adapter_export.parity.expected import Arrays, Expected, Observer
from adapter_export.parity.references.float64 import Float64Reference
from adapter_export.parity.references.pytorch import Reference
from adapter_export.parity.references.separate_rows import CaseOutputs, SeparateRows
from adapter_export.parity.report import NO_ADAPTER
from adapter_export.parity.whole_model import whole_model_outputs

# The outputs of one state, by name: R, T in one or more roundings, and O. In place of O: a text if the run failed, with
# the reason; None if the graph has no such state.
StateOutputs = tuple[Arrays, Sequence[Arrays], Arrays | str | None]


class CaseRunner:
    """Measures all adapters of a bundle, and the graph without an adapter, one case at a time."""

    def __init__(
        self,
        manifest: Manifest,
        exact: Float64Reference,
        target: Reference,
        runner: BundleRunner,
        adapters: Mapping[str, Adapter],
        separate_rows: bool = False,
    ) -> None:
        """Keeps the models to run.

        Args:
            manifest: The manifest of the bundle.
            exact: Computes R.
            target: Computes T.
            runner: Computes O.
            adapters: The adapters by name.
            separate_rows: Whether R and T run each row of a batch separately. Needed for models whose PyTorch code
                gives a row other numbers in a batch with longer rows.
        """
        self._separate_rows = separate_rows
        self._manifest = manifest
        self._exact = exact
        self._target = target
        self._runner = runner
        self._adapters = adapters

    def run(
        self, inputs: Arrays, roundings: int = 1, observer: Observer | None = None
    ) -> dict[tuple[str, str], Measurement]:
        """Measures one case.

        Args:
            inputs: Arrays by name.
            roundings: Number of roundings in which T is computed, see `recording.precision`.
            observer: Is given R, and T in ROUNDINGS roundings.

        Returns:
            Measurements by adapter and output. NO_ADAPTER comes first, if the graph can run without an adapter.
        """
        expected = self._expected(inputs, roundings if observer is None else ROUNDINGS)
        return measure_case(self._manifest, self._runner, inputs, _observed(expected, roundings, observer))

    def _expected(self, inputs: Arrays, roundings: int) -> Iterator[Expected]:
        """Yields what PyTorch computes, adapter by adapter, so that the outputs of one are in memory at a time."""
        exact = self._case(self._exact.case, inputs)
        targets = [self._case(partial(self._target.case, rounding=rounding), inputs) for rounding in range(roundings)]
        if self._runner.has_off_state:
            yield Expected(NO_ADAPTER, (exact.off(), [target.off() for target in targets]))
        for name, adapter in self._adapters.items():
            on = exact.on(name), [target.on(adapter) for target in targets]
            yield Expected(name, on, (exact.off(name), [target.off(adapter) for target in targets]))

    def _case(self, make_case: Callable[[Arrays], CaseOutputs], inputs: Arrays) -> CaseOutputs:
        return SeparateRows(make_case, inputs) if self._separate_rows else make_case(inputs)


def _observed(expected: Iterable[Expected], roundings: int, observer: Observer | None) -> Iterator[Expected]:
    for item in expected:
        if observer is not None:
            observer(item)
        yield item.with_roundings(roundings)


def measure_case(
    manifest: Manifest,
    runner: BundleRunner,
    inputs: Arrays,
    expected: Iterable[Expected],
    select: Callable[[Arrays], Arrays] = dict,
) -> dict[tuple[str, str], Measurement]:
    """Runs one case in ONNX Runtime, and measures it against what PyTorch computes.

    Args:
        manifest: The manifest of the bundle.
        runner: Runs the bundle.
        inputs: Arrays by name.
        expected: The outputs of PyTorch, one item for each adapter to run.
        select: Takes the outputs of ONNX Runtime, and returns the part of them that PyTorch's outputs have.

    Returns:
        Measurements by adapter and output.
    """

    def actual(run: Callable[..., dict[str, np.ndarray]], adapter: str | None) -> Arrays | str:
        outputs = attempt(run, inputs, adapter)
        return outputs if isinstance(outputs, str) else select(outputs)

    measured = {}
    for item in expected:
        if item.off is None:
            on, off = actual(runner.off, None), None
        else:
            on = actual(runner.on, item.adapter)
            off = actual(runner.off, item.adapter) if runner.has_off_state else None
        for output, measurement in measure_expected(manifest, inputs, item, on, off).items():
            measured[item.adapter, output] = measurement
    return measured


def measure_expected(
    manifest: Manifest, inputs: Arrays, expected: Expected, on: Arrays | str, off: Arrays | str | None
) -> dict[str, Measurement]:
    """Measures every output of one adapter, or of the base model, in one case.

    Args:
        manifest: The manifest of the bundle.
        inputs: Arrays by name.
        expected: The outputs of PyTorch.
        on: O with the adapter; of the base model if there is no adapter. A text if the run failed, with the reason.
        off: O without the adapter's body; None if the graph has no such state, or if there is no adapter.

    Returns:
        Measurements by output.
    """
    if expected.off is not None:
        return measure_outputs(manifest, inputs, (*expected.on, on), (*expected.off, off))
    # A base model without a task head of its own has no labels: the last axis of its output is empty.
    headless = manifest.labels is None and bool(manifest.heads)
    return (_measure_headless if headless else measure_outputs)(manifest, inputs, (*expected.on, on))


def measure_outputs(
    manifest: Manifest, inputs: Arrays, on: StateOutputs, off: StateOutputs | None = None
) -> dict[str, Measurement]:
    """Measures every output of R.

    Args:
        manifest: The manifest of the bundle.
        inputs: Arrays by name.
        on: Outputs with the adapter, or those of the base model.
        off: Outputs without the adapter; None for the base model.

    Returns:
        Measurements by output.
    """
    outputs = whole_model_outputs(manifest)
    # The graph of another tool need not have every output of the model. One of ours has.
    expected = [name for name in on[0] if name in outputs or manifest.graft is None]
    for actual in (on[2], off[2] if off else None):
        if isinstance(actual, str):
            return _failed(expected, f"did not run: {actual}")
        if actual is not None and sorted(actual) != sorted(expected):
            return _failed(expected, f"outputs: expected {', '.join(expected)}, found {', '.join(actual)}")
    return {
        name: measure(
            OutputSet(
                on=_output_arrays(on, name),
                off=None if off is None else _output_arrays(off, name),
                kept=kept_positions(inputs, on[0][name]),
                dtype=outputs[name].dtype,
                classes=manifest.quantize.used and name == "logits",
            )
        )
        for name in expected
    }


def _measure_headless(manifest: Manifest, inputs: Arrays, base: StateOutputs) -> dict[str, Measurement]:
    """Measures a base model without a task head: the labels must be empty, the other outputs are compared."""
    reference, targets, actual = base
    if not isinstance(actual, Mapping):
        return _failed(list(reference), f"did not run: {actual}")
    labels = tasks.get(manifest.task).output
    expected = [*reference[labels].shape[:-1], 0]
    found = list(actual[labels].shape) if labels in actual else None
    if found != expected:
        reason = f"without an adapter: expected no labels, {labels} of shape {expected}, found {found}"
        return _failed(list(reference), reason)
    body = (
        _without(reference, labels),
        [_without(target, labels) for target in targets],
        _without(actual, labels),
    )
    return {labels: Measurement(), **measure_outputs(manifest, inputs, body)}


def _without(outputs: Arrays, name: str) -> Arrays:
    return {other: array for other, array in outputs.items() if other != name}


def _output_arrays(state: StateOutputs, name: str) -> OutputArrays:
    """Returns the arrays of one output."""
    reference, targets, actual = state
    assert not isinstance(actual, str)
    return OutputArrays(
        reference[name], tuple(target[name] for target in targets), None if actual is None else actual[name]
    )


def _failed(outputs: list[str], reason: str) -> dict[str, Measurement]:
    return {name: Measurement(fails=(reason,)) for name in outputs}
