"""The page of a parity report: its numbers are those of the report, and every verdict is told in words."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from adapter_export.bundle.precision import Quantization
from adapter_export.pages.parts import HeatMap
from adapter_export.parity.cases import GreedyCase, ParityCase
from adapter_export.parity.criteria.error_counts import ErrorCounts
from adapter_export.parity.criteria.judge import Judgement, Verdict
from adapter_export.parity.criteria.measure import Deviation, TokenAgreement, TokenDifference
from adapter_export.parity.localizing.departure import ParityCause, ParityDeparture, ParitySiteError
from adapter_export.parity.page.errors import _added
from adapter_export.parity.page.heat import heat_maps
from adapter_export.parity.page.page import parity_page
from adapter_export.parity.page.sites import site_parts
from adapter_export.parity.report import NO_ADAPTER, ParityCheck, ParityReport, ParityResult, summary
from tests.pages.checked import Page
from tests.recorded import SHAPES, Recorded

EVIL = "<script>alert(1)</script>"
CASE = ParityCase(3, 9, "left")


def result(error: float, limit: float | None, verdict: Verdict = Verdict.PASS, adapter: str = "calm") -> ParityResult:
    deviation = Deviation(error, error / 2, error / 4)
    counts = ErrorCounts(-20, (3, 5), 2, 2.0)
    judgement = Judgement(verdict, (), deviation, deviation, deviation, 0.5, 0.9, None, limit, counts, counts)
    return ParityResult(adapter, CASE, "logits", judgement)


def report(*results: ParityResult, **more: object) -> ParityReport:
    checks = (ParityCheck("files", Verdict.PASS, "5 files"),)
    return replace(ParityReport(Path("b"), "swappable", "causal-lm", "float32", "cpu", checks, results), **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def found(recorded: Recorded) -> Page:
    return Page(parity_page(recorded.report))


class TestARealReport:
    """The report of a bundle with five adapters."""

    def test_the_verdict_is_first(self, found: Page, recorded: Recorded) -> None:
        assert found.headings[0] == (1, "Parity with PyTorch")
        assert f"\u2713 {recorded.report.outcome}" in found.text.partition("Verdict by adapter")[0]
        assert "Unwitnessed: for at least one adapter" in found.text

    def test_numbers(self, found: Page, recorded: Recorded) -> None:
        for row in summary(recorded.report):
            assert row["adapter"] in found.cells
            numbers = [row[key] for key in ("error", "target_error", "off_error", "effect") if row[key] is not None]
            assert {f"{value:.1e}" for value in numbers} <= found.cells
        for item in recorded.report.results:
            if item.judgement.error is not None:
                assert f"{item.judgement.error.max:.1e}" in found.cells

    def test_cases_and_checks(self, found: Page, recorded: Recorded) -> None:
        assert {*(shape.name for shape in SHAPES), "text 1"} <= found.cells
        assert {check.detail for check in recorded.report.checks} <= found.cells

    def test_plots(self, found: Page, recorded: Recorded) -> None:
        """Three of each adapter. The base model has no head, so nothing of it can be measured."""
        names = recorded.exported.adapters
        assert len(found.plots) == 3 * len(names)
        assert all(sum(plot.startswith(f"{name}, logits: ") for plot in found.plots) == 3 for name in names)
        assert "There is nothing to measure in these cases." in found.text

    def test_what_ran_where(self, found: Page, recorded: Recorded) -> None:
        machine, manifest = recorded.report.machine, recorded.report.manifest
        assert machine is not None
        assert manifest is not None
        assert {machine.date, machine.processor, machine.system, *machine.versions.values()} <= found.cells
        assert {"torch", "transformers", "onnxruntime", "peft"} <= found.cells
        assert {*manifest.files, *manifest.files.values(), manifest.base.sha256} <= found.cells
        own = hashlib.sha256((recorded.exported.bundle / "manifest.json").read_bytes()).hexdigest()
        assert {"manifest.json", own} <= found.cells
        assert {"share of nodes on CPUExecutionProvider", "100.0%"} <= found.cells

    def test_the_model(self, found: Page) -> None:
        model = found.text.partition("The model and its adapter sites")[2]
        assert "encoder.layer.0 to 1 2 layers with these sites each attention.self.key: ia3 changes what" in model
        assert "input_ids: int64 [batch, sequence]" in model
        assert "classifier: task head is replaced by the adapter's own head" in model

    def test_the_law(self, found: Page) -> None:
        assert "The largest e(O) is at most 3 times the largest e(T), plus 1e-05, and at most 0.0001" in found.text


def test_levels_of_the_heat_map() -> None:
    cells = []
    for error in (0.9e-6, 4e-6, 9e-6, 11e-6):
        (heat,) = heat_maps(report(result(error, 1e-5)))
        cells.append(heat.cells[CASE.name, "calm"].level)
    assert cells == [0, 1, 2, 3]
    (heat,) = heat_maps(report(result(float("nan"), 1e-5, Verdict.FAIL)))
    assert (heat.cells[CASE.name, "calm"].level, heat.cells[CASE.name, "calm"].mark) == (3, "fail")
    (heat,) = heat_maps(report(result(1e-6, None)))
    assert heat.cells[CASE.name, "calm"].level is None


def test_distributions_are_added() -> None:
    counts = [ErrorCounts(-3, (1, 2), 4, 0.5), None, ErrorCounts(0, (), 1, 0.5), ErrorCounts(-2, (10, 20), 0, 0.5)]
    assert _added(counts) == ErrorCounts(-3, (1, 12, 20), 5, 0.5)
    assert _added([None]) is None


def test_a_failure_says_why_and_is_marked() -> None:
    bad = result(0.5, 1e-5, Verdict.FAIL, "wild")
    bad = replace(bad, judgement=replace(bad.judgement, reasons=("e(O) = 5.0e-01 is above it", "and more")))
    found = Page(parity_page(report(result(1e-6, 1e-5), bad, result(1e-6, 1e-5, adapter=NO_ADAPTER))))
    assert "\u2717 fail The bundle does not compute what the PyTorch model computes" in found.text
    assert "fail: wild, case 3 x 9 left, logits: e(O) = 5.0e-01 is above it" in found.text
    assert "5.0e-01 fail" in found.cells


def test_many_reasons_are_counted() -> None:
    bad = result(0.5, 1e-5, Verdict.FAIL)
    bad = replace(bad, judgement=replace(bad.judgement, reasons=("it is wrong",)))
    found = Page(parity_page(report(*(replace(bad, adapter=f"task{number}.") for number in range(130)))))
    assert "fail: task99., case" in found.text
    assert "fail: task100., case" not in found.text
    assert "And 30 more, which --json has." in found.text


def test_where_it_broke_is_told_in_words() -> None:
    departure = ParityDeparture(
        "wild", "3 x 9 left", "with the adapter", ParityCause(EVIL, "what was found", "what to do"),
        site="encoder.layer.1.output", part="after the adapter", graph="model.onnx", node="node_9 (Add)", error=0.5,
        limit=1e-6,
    )  # fmt: skip
    found = Page(parity_page(report(result(0.5, 1e-5, Verdict.FAIL), departure=departure)))
    assert (2, "Where it broke") in found.headings
    for line in departure.lines():
        assert line.strip() in found.text
    assert EVIL in found.text
    assert "No values inside of the model were compared: see Where it broke." in found.text
    assert "Where it broke" not in Page(parity_page(report(result(1e-6, 1e-5)))).text


def test_errors_by_site() -> None:
    """A row for each site and a column for each run, coloured by the limit of the place."""
    runs = "with the adapter, read at once", "with the adapter, in steps"
    sites = (
        ParitySiteError("layer.0.key", runs[0], 4e-7, 1e-5),
        ParitySiteError("logits", runs[0], 2e-6, 1e-5),
        ParitySiteError("layer.0.key", runs[1], 9e-6, 1e-5),
        ParitySiteError("layer.0", runs[1], 0.5, 1e-5),
        ParitySiteError("logits", runs[1], float("inf"), 1e-5),
    )
    cause = ParityCause("cache", "what was found", "what to do")
    failed = report(
        result(0.5, 1e-5, Verdict.FAIL), departure=ParityDeparture("wild", "3 x 9 left", runs[1], cause, sites=sites)
    )
    (heat,) = site_parts(failed)
    assert isinstance(heat, HeatMap)
    assert (heat.rows, heat.columns) == (["layer.0.key", "layer.0", "logits"], [*runs])
    levels = [[heat.cells[row, run].level for run in runs if (row, run) in heat.cells] for row in heat.rows]
    assert levels == [[0, 2], [3], [1, 3]]
    found = Page(parity_page(failed))
    assert (2, "Error by site") in found.headings
    assert {"layer.0.key", "4.0e-07", "2.0e-06", "9.0e-06", "inf departs", *runs} <= found.cells
    assert "Case 3 x 9 left, wild: largest error by site" in found.text


def test_why_there_are_no_errors_by_site() -> None:
    found = Page(parity_page(report(result(1e-6, 1e-5))))
    assert "are compared only after a case has failed" in found.text


def test_tokens_that_differ() -> None:
    differing = TokenDifference(1, 4, 17, 23, 0.25, True)
    tokens = TokenAgreement(64, 60, 59, (differing,))
    item = result(1e-6, 1e-5)
    item = replace(item, case=GreedyCase(4, 13, new=16), judgement=replace(item.judgement, tokens=tokens))
    found = Page(parity_page(report(item)))
    assert {"64", "60", "59", "17", "23", "2.5e-01", "yes"} <= found.cells
    same = replace(item, judgement=replace(item.judgement, tokens=TokenAgreement(64, 60, 60)))
    assert "No token differs." in Page(parity_page(report(same))).text


def test_few_bits(recorded: Recorded) -> None:
    """Means are judged, so means are shown."""
    assert recorded.report.manifest is not None
    manifest = replace(recorded.report.manifest, quantize=Quantization.INT8)
    found = Page(parity_page(report(result(4e-2, 1e-1), manifest=manifest)))
    assert "logits: mean error by case and adapter" in found.text
    assert "1.0e-02" in found.cells
    assert "PyTorch with int8 weights" in found.text
    assert len(found.plots) == 2


def test_a_report_without_cases() -> None:
    found = Page(parity_page(report()))
    assert "? inconclusive" in found.text
    assert found.plots == []


def test_everything_is_escaped(recorded: Recorded) -> None:
    real = recorded.report
    assert real.manifest is not None
    adapters = tuple(replace(info, name=EVIL, labels=(EVIL,)) for info in real.manifest.adapters)
    sites = tuple(replace(site, module=EVIL) for site in real.manifest.sites)
    evil = replace(
        real,
        bundle=Path(EVIL),
        checks=(ParityCheck(EVIL, Verdict.FAIL, EVIL),),
        results=tuple(
            replace(item, adapter=EVIL, output=EVIL, judgement=replace(item.judgement, reasons=(EVIL,)))
            for item in real.results
        ),
        notes=(EVIL,),
        witnesses={EVIL: EVIL},
        placement={EVIL: 1.0},
        manifest=replace(real.manifest, adapters=adapters, sites=sites, files={EVIL: EVIL}),
    )
    source = parity_page(evil)
    assert "<script" not in source
    assert Page(source).text.count(EVIL) > len(sites)
