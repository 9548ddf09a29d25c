"""Causes that the verdicts of all cases show."""

from __future__ import annotations

from pathlib import Path

from adapter_export.parity.cases import ParityCase
from adapter_export.parity.criteria.judge import Judgement, Verdict
from adapter_export.parity.criteria.quantized import ALL_CASES, COST
from adapter_export.parity.localizing.patterns import costs_only, not_run, pattern_of
from adapter_export.parity.report import ParityCheck, ParityReport, ParityResult

PLAIN, LEFT, RIGHT = ParityCase(2, 9), ParityCase(2, 9, "left"), ParityCase(3, 9, "right")
SHORT, LONG, SINGLE = ParityCase(1, 8), ParityCase(1, 13), ParityCase(1, 1)


def pattern(wrong: list[ParityCase], right: list[ParityCase]) -> str | None:
    def results(cases: list[ParityCase], verdict: Verdict) -> list[ParityResult]:
        return [ParityResult("a", case, "logits", Judgement(verdict)) for case in cases]

    failed = results(wrong, Verdict.FAIL)
    check = ParityCheck("files", Verdict.PASS, "")
    every = (*failed, *results(right, Verdict.PASS))
    found = pattern_of(ParityReport(Path(), "", "", "", "", (check,), every), failed[0])
    return None if found is None else found.name


def test_padding() -> None:
    assert pattern([LEFT, RIGHT], [PLAIN, SHORT]) == "mask"
    assert pattern([LEFT, RIGHT, SHORT], [PLAIN]) is None
    assert pattern([LEFT], [PLAIN, RIGHT]) is None


def test_length() -> None:
    assert pattern([LONG], [SHORT, SINGLE]) == "length"
    assert pattern([LONG, SHORT], [SINGLE]) is None


def test_batch() -> None:
    assert pattern([PLAIN, RIGHT], [SHORT, LONG]) == "batch"


def test_every_case_is_wrong() -> None:
    assert pattern([PLAIN, LEFT, SHORT], []) is None


def test_the_node_at_which_a_run_stopped() -> None:
    node, cause = not_run("Non-zero status code returned while running MatMul node. Name:'node_x' Status Message: ...")
    assert node == "node_x"
    assert cause.name == "did not run"
    assert not_run("no such thing")[0] is None


def test_what_the_bits_cost_alone() -> None:
    def fails(*reasons: str) -> bool:
        return costs_only(ParityResult("a", SHORT, "logits", Judgement(Verdict.FAIL, reasons)))

    costs = (f"{COST}KL = 1", f"without the adapter: {COST}mean error = 1")
    assert fails(*costs)
    assert fails(*costs, f"{ALL_CASES}: the change is another one")
    assert not fails(f"{ALL_CASES}: the change is another one")
    assert not fails(*costs, "mean error = 2 is above 3 times PyTorch's")
