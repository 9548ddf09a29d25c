"""The report as tables: each says what its columns mean, and a cause is said once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from adapter_export.parity.cases import ParityCase
from adapter_export.parity.criteria.judge import Judgement
from adapter_export.parity.localizing.departure import ParityCause, ParityDeparture
from adapter_export.parity.report import NO_ADAPTER, ParityCheck, ParityResult
from adapter_export.parity.report_tables import once, print_report, reason_lines
from tests.parity.test_report import FAIL, FILES, INCONCLUSIVE, PASS, REPORT, result

CAUSE = ParityCause("adapter absent", "what was found", "what to do")


def printed(capsys: pytest.CaptureFixture[str], **changes: Any) -> list[str]:
    print_report(replace(REPORT, **changes))
    return capsys.readouterr().out.splitlines()


def test_tables(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys)
    assert all(len(line) <= 80 for line in lines[:-3])
    (calm,) = (line.split() for line in lines if line.startswith(" calm"))
    assert calm == ["calm", "pass", "2/2", "2.0e-06", "4.0e-06", "6.0e-06", "5.0e+05", "2.0e-06"]
    (none,) = (line for line in lines if NO_ADAPTER in line)
    assert none.split()[-6:] == ["1/1", "-", "-", "-", "-", "-"]
    assert "fail: wild, case 3 x 9 left, logits: e(O) = 5.00e-01 is above [it all]" in lines
    assert "inconclusive: wild, case 3 x 9 left, logits: too little" in lines
    assert lines[-2:] == ["note: a note", "parity: fail"]


def test_every_symbol_of_the_table_is_in_the_legend(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys)
    (start,) = (number for number, line in enumerate(lines) if line.startswith("cases: "))
    legend = " ".join(lines[start : start + 5])
    for symbol in ("cases:", "e(O):", "e(T):", "off:", "effect:", "1 - cos:", "-:", "float32"):
        assert symbol in legend


def test_where_it_broke(capsys: pytest.CaptureFixture[str]) -> None:
    departure = ParityDeparture(
        "wild", "3 x 9", "with the adapter", CAUSE, "layer.0.key", "output", "model.onnx", "Mul", 0.5, 1e-5
    )
    lines = printed(capsys, departure=departure)
    start = lines.index("where it broke: layer.0.key (output), error 5.0e-01, allowed 1.0e-05")
    assert lines[start + 1 : start + 5] == [
        "  in: case 3 x 9, wild, with the adapter, model.onnx",
        "  first node: Mul",
        "  likely cause: adapter absent: what was found",
        "  next step: what to do",
    ]


def test_where_it_broke_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, departure=ParityDeparture("wild", "3 x 9", "with the adapter", CAUSE))
    start = lines.index("where it broke: adapter absent: what was found")
    assert lines[start + 1] == "  next step: what to do"


def test_one_line_for_a_cause() -> None:
    many = tuple(result("a", FAIL, 1, f"reason {number}", "follows from it") for number in range(40))
    other = result("b", FAIL, 1, "another reason")
    assert list(reason_lines((*many, other, result("a", INCONCLUSIVE, 1, "too little"), result("a", PASS)))) == [
        "fail: a, case 3 x 9 left, logits: reason 0 (and 39 more cases)",
        "fail: b, case 3 x 9 left, logits: another reason",
        "inconclusive: a, case 3 x 9 left, logits: too little",
    ]


def test_many_lines_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, results=tuple(result(f"a{number}", FAIL, 1, "reason") for number in range(40)))
    assert any(line.startswith("fail: a11,") for line in lines)
    assert not any(line.startswith("fail: a12,") for line in lines)
    assert "... and 28 more; --json has all of them" in lines


def test_a_check_does_not_repeat_the_reason_of_a_case_or_of_another_check() -> None:
    reason = "did not run: no such node"
    failed = ParityResult("a", ParityCase(1, 9), "logits", Judgement(FAIL, (reason,)))
    checks = (FILES, ParityCheck("swap", FAIL, f"adapter a: {reason}"), ParityCheck("rows", FAIL, "did not run: other"))
    again = ParityCheck("provider", FAIL, "did not run: other")
    files, swap, rows, provider = once((*checks, again), (failed,))
    assert files == FILES
    assert swap.detail == "adapter a: did not run, for the same reason as another line"
    assert rows.detail == "did not run: other"
    assert provider.detail == "did not run, for the same reason as another line"
