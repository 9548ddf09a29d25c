"""Runs the cases of a bundle's record: R and T come from the file, O from ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from adapter_export.bundle.manifest import Manifest
from adapter_export.parity.bundle_records.reader import BundleRecord
from adapter_export.parity.bundle_runner import BundleRunner, attempt
from adapter_export.parity.case_runner import measure_case, measure_expected
from adapter_export.parity.cases import GreedyCase, ParityCase, kept_positions
from adapter_export.parity.checks.tokens_written import measure_tokens, rows_before_new
from adapter_export.parity.criteria.measure import Measurement
from adapter_export.parity.expected import Arrays
from adapter_export.parity.report import NO_ADAPTER
from adapter_export.parity.whole_model import whole_model_inputs, whole_model_outputs


class BundleRecordCases:
    """Measures the outputs of a bundle for the cases of a record.

    Attributes:
        adapters: The adapters of the bundle; NO_ADAPTER comes first, if the graph can run without an adapter.
    """

    def __init__(self, record: BundleRecord, manifest: Manifest, runner: BundleRunner) -> None:
        """Keeps what to run.

        Args:
            record: A record of this bundle, see `belongs.check_belongs`.
            manifest: The manifest of the bundle.
            runner: Computes O.
        """
        self._record, self._manifest, self._runner = record, manifest, runner
        base = (NO_ADAPTER,) if runner.has_off_state else ()
        self.adapters = (*base, *(info.name for info in manifest.adapters))

    def run(
        self, case: ParityCase, roundings: int | None = None, adapter: str | None = None
    ) -> dict[tuple[str, str], Measurement]:
        """Measures one case.

        Args:
            case: A case of the record.
            roundings: 1 for T as PyTorch rounds it; more for the furthest of its recorded roundings as well. None for
                as many as when the record was made.
            adapter: The only adapter to run, or NO_ADAPTER; None for all.

        Returns:
            Measurements by adapter and output.
        """
        roundings = self._record.roundings(case) if roundings is None else roundings
        names = self.adapters if adapter is None else (adapter,)
        if isinstance(case, GreedyCase):
            return {(name, "logits"): self._run_greedy(case, name, roundings) for name in names}
        expected = (self._record.expected(case, name).with_roundings(roundings) for name in names)
        inputs = self.converted(self._record.inputs(case))
        return measure_case(self._manifest, self._runner, inputs, expected, self._record.columns.select)

    def ideal(self, case: ParityCase, adapter: str) -> dict[tuple[str, str], Measurement]:
        """Measures R in place of O, rounded to the dtypes of the outputs: what a graph without errors would give."""
        # Texts are generated with the adapter alone.
        generates = isinstance(case, GreedyCase)
        inputs = {} if generates else self.converted(self._record.inputs(case))
        expected = self._record.expected(case, adapter).with_roundings(1)
        has_off = self._runner.has_off_state and not generates
        off = self._rounded(expected.off[0]) if has_off and expected.off else None
        measured = measure_expected(self._manifest, inputs, expected, self._rounded(expected.on[0]), off)
        return {(adapter, output): item for output, item in measured.items()}

    def largest_difference(self, case: ParityCase, adapter: str, output: str) -> str:
        """Returns where an output is furthest from R, with both values; empty where the two cannot be compared."""
        if isinstance(case, GreedyCase):
            return ""
        inputs = self.converted(self._record.inputs(case))
        run = self._runner.off if adapter == NO_ADAPTER else self._runner.on
        outputs = attempt(run, inputs, None if adapter == NO_ADAPTER else adapter)
        expected = self._record.expected(case, adapter).on[0].get(output)
        if isinstance(outputs, str) or expected is None or output not in outputs:
            return ""
        actual = self._record.columns.select_of(output, outputs[output]).astype(np.float64)
        if actual.shape != expected.shape or not actual.size:
            return ""
        distance = np.abs(actual - expected)
        if (kept := kept_positions(inputs, expected)) is not None:
            distance[~kept] = 0
        place = np.unravel_index(int(np.argmax(np.nan_to_num(distance, nan=np.inf))), distance.shape)
        shown = [str(number) for number in place]
        if (numbers := self._record.columns.numbers.get(output)) is not None:
            shown[-1] = str(numbers[place[-1]])
        return f"{output}[{', '.join(shown)}]: expected {expected[place]:.6g}, found {actual[place]:.6g}"

    def check_inputs(self, check: str) -> dict[str, np.ndarray]:
        """Returns the inputs for the check `swap` or `rows`, by name."""
        return self.converted(self._record.group(f"check/{check}"))

    def converted(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns inputs in the dtypes of the graph, which may have others than the recorded one."""
        return {name: inputs[name].astype(info.dtype) for name, info in whole_model_inputs(self._manifest).items()}

    def _run_greedy(self, case: GreedyCase, name: str, roundings: int) -> Measurement:
        prompts, reference = self._record.prompts(case), self._record.tokens(case, name)
        generated = attempt(self._runner.generate, prompts, None if name == NO_ADAPTER else name, case.new)
        if isinstance(generated, str):
            return Measurement(fails=(f"did not run: {generated}",))
        config = self._runner.generation_config
        return measure_tokens(
            self._manifest,
            config,
            rows_before_new(self._manifest, config, prompts, case.new),
            replace(reference, expected=reference.expected.with_roundings(roundings)),
            generated,
            self._columns_of_logits,
        )

    def _rounded(self, outputs: Arrays) -> dict[str, np.ndarray]:
        """Returns outputs in the dtypes that the graph gives them."""
        dtypes = {name: info.dtype for name, info in whole_model_outputs(self._manifest).items()}
        return {name: value.astype(dtypes.get(name, "float32")) for name, value in outputs.items()}

    def _columns_of_logits(self, values: np.ndarray) -> np.ndarray:
        return self._record.columns.select_of("logits", values)
