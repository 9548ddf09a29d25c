"""One case that is judged alone gets the judgement that the check of the whole bundle gives it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from adapter_export.parity.bundle_records.reader import read_bundle_record
from adapter_export.parity.bundle_records.suite import RecordSuite
from adapter_export.parity.cases import ParityCase
from tests.bundles import Exported
from tests.parity.bundle_records.test_judge import by_case, numbers
from tests.recorded import Recorded


def assert_each_case_agrees(recorded: Recorded) -> None:
    suite = RecordSuite(recorded.exported.bundle, read_bundle_record(recorded.file), "cpu")
    try:
        expected = by_case(suite.report())
        assert {name for name, _, _ in expected} > {*recorded.exported.adapters}
        for adapter in {name for name, _, _ in expected}:
            for case in suite.record.cases:
                for item in suite.judge(adapter, case):
                    whole = expected.pop((adapter, case.name, item.output))
                    assert item.judgement.verdict is whole.verdict
                    assert item.judgement.reasons == whole.reasons
                    assert item.judgement.tokens == whole.tokens
                    np.testing.assert_allclose(numbers(item.judgement), numbers(whole), rtol=1e-5, atol=1e-12)
        assert not expected
    finally:
        suite.close()


def test_a_classifier(recorded: Recorded) -> None:
    assert_each_case_agrees(recorded)


def test_a_decoder(record: Callable[..., Recorded], llama_bundle: Exported) -> None:
    assert_each_case_agrees(record(llama_bundle, [ParityCase(2, 9, "left"), ParityCase(1, 1)]))


def test_two_graphs(record: Callable[..., Recorded], t5_bundle: Exported) -> None:
    """The encoder's output is judged besides the logits."""
    assert_each_case_agrees(record(t5_bundle, [ParityCase(2, 9, "left")]))


def test_inputs_find_their_case(recorded: Recorded) -> None:
    suite = RecordSuite(recorded.exported.bundle, read_bundle_record(recorded.file), "cpu")
    try:
        for case in suite.record.cases:
            inputs = suite.record.inputs(case)
            assert suite.case_of({name: value.tolist() for name, value in inputs.items()}) == case
            ids = inputs["input_ids"].copy()
            ids[0, -1] += 1
            assert suite.case_of({**inputs, "input_ids": ids}) is None
            assert suite.case_of({"input_ids": inputs["input_ids"]}) is None
    finally:
        suite.close()
