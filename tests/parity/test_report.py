"""The report as JSON and as tables."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from adapter_export.cli.options import emit
from adapter_export.parity.cases import ParityCase
from adapter_export.parity.criteria.error_counts import ErrorCounts
from adapter_export.parity.criteria.judge import Judgement, Verdict
from adapter_export.parity.criteria.measure import Deviation
from adapter_export.parity.localizing.departure import ParityCause, ParityDeparture
from adapter_export.parity.report import (
    NO_ADAPTER,
    ParityCheck,
    ParityReport,
    ParityResult,
    as_dict,
    summary,
)

PASS, INCONCLUSIVE, FAIL = Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL


def error(value: float) -> Deviation:
    return Deviation(value, value / 2, value / 4)


def result(adapter: str, verdict: Verdict, size: float = 1e-6, *reasons: str) -> ParityResult:
    judgement = Judgement(
        verdict,
        reasons,
        error(size),
        error(2 * size),
        error(3 * size),
        effect=1 / size,
        cosine=1 - size,
        counts=ErrorCounts(-20, (3, 1), 2, 0.5),
    )
    return ParityResult(adapter, ParityCase(3, 9, "left"), "logits", judgement)


FILES = ParityCheck("files", PASS, "5 files")
REPORT = ParityReport(
    Path("bundle"),
    "swappable",
    "text-classification",
    "float32",
    "cpu",
    (FILES,),
    (
        ParityResult(NO_ADAPTER, ParityCase(3, 9, "left"), "logits", Judgement(PASS)),
        result("calm", PASS, 1e-6),
        result("calm", PASS, 2e-6),
        result("wild", FAIL, 0.5, "e(O) = 5.00e-01 is above [it all]", "and more"),
        result("wild", INCONCLUSIVE, 0.25, "too little"),
    ),
    notes=("a note",),
    placement={"CPUExecutionProvider": 1.0},
)

DEPARTURE = ParityDeparture(
    "wild", "3 x 9 left", "with the adapter", ParityCause("mask", "what was found", "what to do"), "layer.0.key"
)


def test_the_verdict_is_the_worst() -> None:
    def verdict(*results: ParityResult, checks: tuple[ParityCheck, ...] = (FILES,)) -> Verdict:
        return ParityReport(Path(), "", "", "", "", checks, results).verdict

    assert verdict(result("a", PASS)) is PASS
    assert verdict(result("a", PASS), result("b", INCONCLUSIVE)) is INCONCLUSIVE
    assert verdict(result("a", INCONCLUSIVE), result("b", FAIL)) is FAIL
    assert verdict(result("a", PASS), checks=(FILES, ParityCheck("swap", FAIL, ""))) is FAIL


def test_a_pass_says_what_it_does_not_cover() -> None:
    passed = ParityReport(Path(), "", "", "", "", (FILES,), (result("a", PASS),), witnesses={"a": "peft 0.21.2"})
    assert passed.outcome == "pass"
    assert replace(passed, judged_to=512).outcome == "pass (not judged beyond 512 tokens)"
    alone = replace(passed, witnesses={"a": "none: our own reading"})
    assert alone.outcome == "pass (unwitnessed)"
    assert replace(alone, judged_to=512).outcome == "pass (unwitnessed; not judged beyond 512 tokens)"
    assert as_dict(replace(alone, judged_to=512))["verdict"] == "pass (unwitnessed; not judged beyond 512 tokens)"
    failed = replace(alone, judged_to=512, results=(result("a", FAIL),))
    assert failed.outcome == "fail"


def test_without_cases_the_verdict_is_no_pass() -> None:
    assert ParityReport(Path(), "", "", "", "", (FILES,)).verdict is INCONCLUSIVE
    assert ParityReport(Path(), "", "", "", "", (ParityCheck("files", FAIL, ""),)).verdict is FAIL


def test_a_row_an_adapter_with_its_worst_numbers() -> None:
    none, calm, wild = summary(REPORT)
    assert none == {
        "adapter": NO_ADAPTER,
        "verdict": "pass",
        "cases": {"pass": 1, "inconclusive": 0, "fail": 0},
        "error": None,
        "target_error": None,
        "off_error": None,
        "effect": None,
        "cosine": None,
        "tokens": None,
    }
    assert (calm["error"], calm["target_error"], calm["off_error"]) == pytest.approx((2e-6, 4e-6, 6e-6))
    assert (calm["effect"], calm["cosine"]) == pytest.approx((0.5e6, 1 - 2e-6))
    assert wild["verdict"] == "fail"
    assert wild["cases"] == {"pass": 0, "inconclusive": 1, "fail": 1}


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    emit(as_dict(REPORT), True, pytest.fail)
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "fail"
    assert found["checks"] == [{"name": "files", "verdict": "pass", "detail": "5 files"}]
    assert found["adapters"] == summary(REPORT)
    assert len(found["cases"]) == 5
    assert found["cases"][3] == {
        "adapter": "wild",
        "case": "3 x 9 left",
        "output": "logits",
        "verdict": "fail",
        "reasons": ["e(O) = 5.00e-01 is above [it all]", "and more"],
        "error": {"max": 0.5, "p999": 0.25, "mean": 0.125},
        "target_error": {"max": 1.0, "p999": 0.5, "mean": 0.25},
        "off_error": {"max": 1.5, "p999": 0.75, "mean": 0.375},
        "effect": 2.0,
        "cosine": 0.5,
        "tokens": None,
        "limit": None,
        "counts": {"first": -20, "counts": [3, 1], "exact": 2, "unit": 0.5},
        "target_counts": None,
    }
    assert (found["machine"], found["manifest_sha256"], found["files"]) == (None, None, {})
    assert found["notes"] == ["a note"]


def test_json_says_where_it_broke() -> None:
    assert as_dict(REPORT)["where_it_broke"] is None
    found = as_dict(replace(REPORT, departure=DEPARTURE))["where_it_broke"]
    assert found["site"] == "layer.0.key"
    assert found["cause"] == {"name": "mask", "detail": "what was found", "next_step": "what to do"}
