"""Judges single cases of a bundle by its record, for test suites that run them one by one and in any order."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export.bundle.manifest import read_manifest
from adapter_export.parity.bundle_records.belongs import check_belongs
from adapter_export.parity.bundle_records.cases import BundleRecordCases
from adapter_export.parity.bundle_records.judge import check_by_record, criteria_without_pytorch
from adapter_export.parity.bundle_records.reader import BundleRecord
from adapter_export.parity.bundle_runner import open_bundle_runner
from adapter_export.parity.cases import GreedyCase, ParityCase
from adapter_export.parity.criteria.measure import Measurement
from adapter_export.parity.criteria.quantized import judge_each_case
from adapter_export.parity.criteria.retries import Measured, retry_sensitive_cases
from adapter_export.parity.notes import remove_absent_effects
from adapter_export.parity.report import ParityReport, ParityResult


class RecordSuite:
    """An open bundle with its record."""

    def __init__(self, bundle: Path, record: BundleRecord, provider: str) -> None:
        """Opens a session of the bundle.

        Args:
            bundle: Folder of the bundle.
            record: Its record.
            provider: `cpu` or `cuda`.

        Raises:
            InputError: The record is one of another model, other adapters or other tokenizer files.
            ProviderError: The provider is not available.
        """
        self.bundle, self.record, self.provider = bundle, record, provider
        self.manifest = read_manifest(bundle)
        check_belongs(record, bundle, self.manifest)
        self._criteria = criteria_without_pytorch(self.manifest)
        self._open = ExitStack()
        runner = self._open.enter_context(open_bundle_runner(bundle, self.manifest, {}, provider))
        self._cases = BundleRecordCases(record, self.manifest, runner)
        # Measurements of a graph that would compute R itself, by adapter; see `judge`.
        self._ideal = cache(self._measure_ideal)
        self.report = cache(self._report)

    def close(self) -> None:
        """Closes the session."""
        self._open.close()

    def judge(self, adapter: str, case: ParityCase) -> list[ParityResult]:
        """Judges one case of one adapter as the check of the whole bundle does. Runs this case alone.

        rms(R) is taken over all cases of the adapter, which the record has. What a check of a bundle in 8 bits judges
        over all cases together is not judged here.

        Args:
            adapter: Name of the adapter; NO_ADAPTER for the base model.
            case: A case of the record.

        Returns:
            One result per output.
        """
        ideal = self._ideal(adapter)
        measured: Measured = {key: dict(items) for key, items in ideal.items()}
        for key, item in self._cases.run(case, adapter=adapter).items():
            measured.setdefault(key, {})[case] = item

        def rerun(again: ParityCase, _: int, roundings: int) -> Mapping[tuple[str, str], Measurement]:
            return self._cases.run(again, roundings, adapter)

        retry_sensitive_cases(measured, self._criteria, rerun)
        remove_absent_effects(measured)
        judge = judge_each_case if self.manifest.quantize.used else self._criteria.judge
        results = []
        for (name, output), items in measured.items():
            judgements = dict(zip(items, judge(list(items.values())), strict=True))
            if case in judgements:
                results.append(ParityResult(name, case, output, judgements[case]))
        return results

    def largest_difference(self, adapter: str, case: ParityCase, output: str) -> str:
        """Returns where an output is furthest from R, with both values, in one line; empty where it cannot be said."""
        return self._cases.largest_difference(case, adapter, output)

    def case_of(self, inputs: Mapping[str, Any]) -> ParityCase | None:
        """Returns the recorded case that has these inputs; None if no case has them."""
        given = {name: np.asarray(value) for name, value in inputs.items()}
        for case in self.record.cases:
            recorded = {} if isinstance(case, GreedyCase) else self.record.inputs(case)
            if {*recorded} == {*given} and all(np.array_equal(recorded[name], given[name]) for name in given):
                return case
        return None

    def _measure_ideal(self, adapter: str) -> Measured:
        measured: Measured = {}
        for case in self.record.cases:
            for key, item in self._cases.ideal(case, adapter).items():
                measured.setdefault(key, {})[case] = item
        return measured

    def _report(self) -> ParityReport:
        return check_by_record(self.bundle, self.record.path, provider=self.provider)
