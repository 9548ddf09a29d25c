"""Runs the cases of records: R and T come from the file, O from ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from adapter_export.bundle.manifest import Manifest
from adapter_export.parity.bundle_runner import BundleRunner, attempt
from adapter_export.parity.case_runner import measure_outputs
from adapter_export.parity.criteria.measure import Measurement
from adapter_export.parity.expected import Arrays
from adapter_export.parity.recording.recorder import EXACT, ROUNDED
from adapter_export.parity.references.records import Record, RecordedCase, is_nested
from adapter_export.parity.whole_model import whole_model_inputs, whole_model_outputs


class RecordedCaseRunner:
    """Measures the outputs of a bundle for the inputs of records."""

    def __init__(self, manifest: Manifest, runner: BundleRunner, records: Mapping[str, Record]) -> None:
        """Keeps what to run.

        Args:
            manifest: The manifest of the bundle.
            runner: Computes O.
            records: The records by adapter.
        """
        self._manifest, self._runner, self._records = manifest, runner, records
        self._kind = str(manifest.quantize if manifest.quantize.used else manifest.dtype)

    @property
    def cases(self) -> list[RecordedCase]:
        """All cases of all records, record by record."""
        return [case for record in self._records.values() for case in record.cases.values()]

    def inputs(self, case: RecordedCase) -> dict[str, np.ndarray]:
        """Returns the inputs of the graph for a case, by name, in the dtypes of the graph."""
        inputs = self._records[case.adapter].inputs(case)
        if "input_ids" in inputs and "position_ids" not in inputs:
            # Without this input the recorded model counted all tokens, padding included.
            rows, length = inputs["input_ids"].shape
            inputs["position_ids"] = np.tile(np.arange(length), (rows, 1))
        return {name: inputs[name].astype(info.dtype) for name, info in whole_model_inputs(self._manifest).items()}

    def repeat_inputs(self) -> dict[str, np.ndarray]:
        """Returns inputs of several rows, by name, for the checks of the bundle as a whole."""
        return self.inputs(max(self.cases, key=lambda case: (case.batch, case.length)))

    def run(self, case: RecordedCase) -> dict[tuple[str, str], Measurement]:
        """Measures one case. Returns measurements by adapter and output, like those of `CaseRunner`."""
        record, name = self._records[case.adapter], case.adapter
        if (doubt := self._reason_not_comparable(record, case)) is not None:
            return {(name, output): Measurement(doubts=(doubt,)) for output in record.outputs(case, "on")}
        inputs = self.inputs(case)
        off_actual = self._actual(self._runner.off, inputs, name) if self._runner.has_off_state else None
        on = *self._expected(record, case, "on"), self._actual(self._runner.on, inputs, name)
        off = *self._expected(record, case, "off"), off_actual
        measured = measure_outputs(self._manifest, inputs, on, off)
        return {(name, output): item for output, item in measured.items()}

    @staticmethod
    def _actual(run: Callable[..., dict[str, np.ndarray]], inputs: Arrays, name: str) -> Arrays | str:
        """Returns O without nested outputs, which records do not have; a text if the run failed, with the reason."""
        outputs = attempt(run, inputs, name)
        if isinstance(outputs, str):
            return outputs
        return {key: value for key, value in outputs.items() if not is_nested(key)}

    def _expected(self, record: Record, case: RecordedCase, state: str) -> tuple[Arrays, list[Arrays]]:
        """Returns R, and T in two roundings: PyTorch's own, and the one of several that is furthest from R."""
        names = whole_model_outputs(self._manifest)

        def outputs(kind: str) -> Arrays:
            recorded = record.outputs(case, state, kind)
            # The library may return further outputs, which the task does not have.
            return {name: value for name, value in recorded.items() if name in names} or recorded

        return outputs(EXACT), [outputs(kind) for kind in (self._kind, self._kind + ROUNDED)]

    def _reason_not_comparable(self, record: Record, case: RecordedCase) -> str | None:
        """Returns why the record cannot be compared with this graph; None if it can."""
        if self._kind not in record.kinds:
            how = "record it again with --bundle" if self._manifest.quantize.used else "record it again"
            return f"the record has no outputs of PyTorch in {self._kind}: {how}"
        if (why := record.kinds[self._kind]) is not None:
            return f"PyTorch could not run the model in {self._kind} where the record was made: {why}"
        recorded_inputs, graph_inputs = set(record.inputs(case)), set(whole_model_inputs(self._manifest))
        if missing := sorted(graph_inputs - recorded_inputs - {"position_ids"}):
            return f"the record was made without the graph's input {missing[0]!r}"
        if extra := sorted(recorded_inputs - graph_inputs):
            return f"the record was made with input {extra[0]!r}, which the graph does not take"
        return None
