"""Judging a bundle by a record: R and T come from the file, O from ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from adapter_export.bundle.manifest import Manifest
from adapter_export.parity.bundle_runner import BundleRunner, attempt
from adapter_export.parity.case_runner import Arrays, measure_outputs
from adapter_export.parity.measure import Measurement
from adapter_export.parity.recording.recorder import EXACT, ROUNDED
from adapter_export.parity.records import Record, RecordedCase, is_within
from adapter_export.parity.whole_model import whole_model_inputs, whole_model_outputs


class RecordedCaseRunner:
    """Measures what the bundle gives for the inputs of records. records: by adapter."""

    def __init__(self, manifest: Manifest, runner: BundleRunner, records: Mapping[str, Record]) -> None:
        self._manifest, self._runner, self._records = manifest, runner, records
        self._kind = manifest.dtype if manifest.quantize == "none" else manifest.quantize

    @property
    def cases(self) -> list[RecordedCase]:
        """All cases of all records."""
        return [case for record in self._records.values() for case in record.cases.values()]

    def inputs(self, case: RecordedCase) -> dict[str, np.ndarray]:
        """What the graph is given in a case, in its dtypes."""
        given = self._records[case.adapter].inputs(case)
        if "input_ids" in given and "position_ids" not in given:
            # A model that is given none counts all tokens, padding included.
            rows, length = given["input_ids"].shape
            given["position_ids"] = np.tile(np.arange(length), (rows, 1))
        return {name: given[name].astype(info.dtype) for name, info in whole_model_inputs(self._manifest).items()}

    def repeated(self) -> dict[str, np.ndarray]:
        """Inputs of several rows."""
        return self.inputs(max(self.cases, key=lambda case: (case.batch, case.length)))

    def run(self, case: RecordedCase) -> dict[tuple[str, str], Measurement]:
        """Measurements by adapter and output, as those of `CaseRunner`."""
        record, name = self._records[case.adapter], case.adapter
        if (doubt := self._doubt(record, case)) is not None:
            return {(name, output): Measurement(doubts=(doubt,)) for output in record.outputs(case, "on")}
        inputs = self.inputs(case)
        off_actual = self._actual(self._runner.off, inputs, name) if self._runner.has_off_state else None
        on = *self._expected(record, case, "on"), self._actual(self._runner.on, inputs, name)
        off = *self._expected(record, case, "off"), off_actual
        found = measure_outputs(self._manifest, inputs, on, off)
        return {(name, output): item for output, item in found.items()}

    @staticmethod
    def _actual(run: Callable[..., dict[str, np.ndarray]], inputs: Arrays, name: str) -> Arrays | str:
        found = attempt(run, inputs, name)
        return found if isinstance(found, str) else {key: value for key, value in found.items() if not is_within(key)}

    def _expected(self, record: Record, case: RecordedCase, state: str) -> tuple[Arrays, list[Arrays]]:
        """R, and T as PyTorch rounds it and as it might have."""
        wanted = whole_model_outputs(self._manifest)

        def outputs(kind: str) -> Arrays:
            found = record.outputs(case, state, kind)
            # Of outputs that the task does not have, the library gives others besides.
            return {name: value for name, value in found.items() if name in wanted} or found

        return outputs(EXACT), [outputs(kind) for kind in (self._kind, self._kind + ROUNDED)]

    def _doubt(self, record: Record, case: RecordedCase) -> str | None:
        """Why this record tells nothing of this graph."""
        if self._kind not in record.kinds:
            how = "record it again with --bundle" if self._manifest.quantize != "none" else "record it again"
            return f"the record has no outputs of PyTorch in {self._kind}: {how}"
        if (why := record.kinds[self._kind]) is not None:
            return f"PyTorch could not run the model in {self._kind} where the record was made: {why}"
        given, taken = set(record.inputs(case)), set(whole_model_inputs(self._manifest))
        if missing := sorted(taken - given - {"position_ids"}):
            return f"the record was made without the graph's input {missing[0]!r}"
        if surplus := sorted(given - taken):
            return f"the record was made with input {surplus[0]!r}, which the graph does not take"
        return None
