"""`adapter-export bench`: what it reports, the page it writes, what it refuses. Times themselves are never judged."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from adapter_export.benchmarking.page import page
from adapter_export.cli import main
from adapter_export.cli.options import ExitCode
from tests.bundles import Exported
from tests.decoders import POSITIONS
from tests.pages.checked import Page

NONE, MIXED = "(no adapter)", "(mixed rows)"


def run(bundle: Path, *more: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(main, ["bench", "--bundle", str(bundle), *more])


def measured(bundle: Path, *more: str) -> dict[str, Any]:
    result = run(bundle, "--json", "--repeats=2", *more)
    assert result.exit_code == ExitCode.DONE, result.output
    assert result.stderr == ""
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture(scope="module")
def bank(bank_bundle: Exported, swappable_bundle: Exported, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of a bank against swappable, and its page."""
    html = tmp_path_factory.mktemp("page") / "page.html"
    shapes = ("--batch=1", "--batch=3", "--length=4", "--length=9", "--threads=1")
    found = measured(bank_bundle.bundle, "--against", str(swappable_bundle.bundle), *shapes, "--report", str(html))
    return {**found, "page": html.read_text(encoding="utf-8")}


class TestABank:
    def test_runs(self, bank: dict[str, Any]) -> None:
        """Every batch and length: none twice, the first of each method, mixed rows of several; the other bundle's."""
        single = [NONE, NONE, "ia3_two", "houlsby_four"]
        other = [NONE, "ia3_two", "houlsby_four"]
        expected = [("bundle", 1, name) for name in single] + [("against", 1, name) for name in other]
        expected += [("bundle", 3, name) for name in [*single, MIXED]] + [("against", 3, name) for name in other]
        for length in (4, 9):
            rows = [row for row in bank["latency"] if row["length"] == length]
            assert [(row["bundle"], row["batch"], row["run"]) for row in rows] == expected
        assert {row["stage"] for row in bank["latency"]} == {"run"}
        assert [row["control"] for row in bank["latency"]].count(True) == 4

    def test_numbers(self, bank: dict[str, Any]) -> None:
        for row in bank["latency"]:
            assert row["rounds"] == 2
            assert 0 < row["wall"]["p10"] <= row["wall"]["p50"] <= row["wall"]["p90"] <= row["wall"]["p99"]
            assert row["rows_per_second"] == pytest.approx(1e3 * row["batch"] / row["wall"]["p50"])
            tokens = {(1, 4): 4, (1, 9): 9, (3, 4): 11, (3, 9): 24}[row["batch"], row["length"]]
            assert row["tokens_per_second"] == pytest.approx(1e3 * tokens / row["wall"]["p50"])
        firsts = [row for row in bank["latency"] if row["run"] == NONE and row["bundle"] == "bundle"]
        assert all((row["wall_ratio"]["value"] == 1) is not row["control"] for row in firsts)

    def test_side_by_side(self, bank: dict[str, Any]) -> None:
        rows = [row for row in bank["comparisons"] if (row["batch"], row["length"]) == (3, 9)]
        assert [(row["run"], row["control"]) for row in rows] == [
            (NONE, False), (NONE, True), ("ia3_two", False), ("houlsby_four", False)
        ]  # fmt: skip

    def test_swaps_and_memory(self, bank: dict[str, Any], bank_bundle: Exported) -> None:
        assert [(row["bundle"], row["adapter"], row["method"]) for row in bank["swaps"]] == [
            (bundle, *adapter)
            for bundle in ("bundle", "against")
            for adapter in (("ia3_two", "ia3"), ("houlsby_four", "bottleneck"))
        ]
        for row in bank["swaps"]:
            assert row["share"] == pytest.approx(row["load"]["p50"] / row["session"]["p50"])
            assert row["first_use"]["p50"] > 0
        files = sum(path.stat().st_size for path in (bank_bundle.bundle / "adapters").iterdir())
        assert (bank["memory"]["bundle"]["adapters"], bank["memory"]["bundle"]["adapter_files"]) == (5, files)
        assert bank["memory"]["bundle"]["session"] is None or bank["memory"]["bundle"]["session"] > 0

    def test_page(self, bank: dict[str, Any]) -> None:
        found = Page(bank["page"])
        assert len(found.plots) == 4 + 4 + 4 + 4  # times, ratios, comparisons, swaps
        assert {"ia3_two", "houlsby_four", MIXED, f"{NONE} (control)"} <= found.cells

    def test_page_says_what_ran_where(self, bank: dict[str, Any], bank_bundle: Exported) -> None:
        found, machine = Page(bank["page"]), bank["machine"]
        assert {machine["date"], machine["processor"], machine["versions"]["onnxruntime"]} <= found.cells
        assert f"Measured {machine['date']} on {machine['processor']}" in found.text
        manifest = hashlib.sha256((bank_bundle.bundle / "manifest.json").read_bytes()).hexdigest()
        assert manifest == bank["bundle"]["manifest_sha256"]
        assert {str(bank_bundle.bundle), manifest} <= found.cells

    def test_page_shows_every_spread(self, bank: dict[str, Any]) -> None:
        found = Page(bank["page"])
        for row in bank["latency"]:
            assert {f"{row['wall'][of]:.3g}" for of in ("p10", "p50", "p90", "p99")} <= found.cells


def test_a_page_escapes_what_it_shows(bank: dict[str, Any]) -> None:
    evil = '<script>alert("x")</script>&amp;'
    result = copy.deepcopy({name: value for name, value in bank.items() if name != "page"})
    result["bundle"] |= {"folder": evil, "mode": evil, "task": evil}
    for row in (*result["latency"], *result["comparisons"]):
        row["run"] += evil
    for row in result["swaps"]:
        row |= {"adapter": evil, "method": evil}
    found = Page(page(result))
    assert evil in found.cells
    assert f"bundle: {evil}" in found.cells
    assert f"ia3_two{evil}" in found.cells


def test_a_decoder(llama_bundle: Exported) -> None:
    found = measured(llama_bundle.bundle, "--batch=2", "--length=5")
    rows = [(row["stage"], row["run"], row["control"]) for row in found["latency"]]
    runs = [(NONE, False), (NONE, True), ("ia3", False), ("houlsby", False)]
    assert rows == [(stage, *run) for stage in ("prefill", "token") for run in runs]
    token = next(row for row in found["latency"] if row["stage"] == "token")
    assert token["tokens_per_second"] == token["rows_per_second"]


def test_a_decoder_that_is_nearly_full(llama_bundle: Exported) -> None:
    """Fewer tokens than rounds asked for fit behind the prompt: those are measured."""
    result = run(llama_bundle.bundle, "--json", "--repeats=9", "--batch=1", f"--length={POSITIONS - 6}")
    assert result.exit_code == ExitCode.DONE, result.output
    rows = json.loads(result.stdout)["latency"]
    assert {(row["stage"], row["rounds"]) for row in rows} == {("prefill", 9), ("token", 2)}


def test_an_adapter_in_the_graph_as_a_table(merged_bundle: Exported) -> None:
    result = run(merged_bundle.bundle, "--repeats=2", "--batch=1", "--length=4")
    assert result.exit_code == ExitCode.DONE, result.output
    assert result.stdout.startswith(f"bundle: {merged_bundle.bundle} (merged, text-classification, float32, cpu)\n")
    assert "ia3_three (control)" in result.stdout
    assert "swapping" not in result.stdout


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--length=4000"], "error: --length 4000: 4000 tokens do not fit in the "),
        (["--batch=0"], "error: --batch: expected whole numbers from 1, found [0]"),
        (["--length=4", "--length=4"], "error: --length: expected each number once, found [4, 4]"),
        (["--against=nowhere"], "error: bundle nowhere: "),
        (["--report=nowhere/page.html"], "error: --report nowhere/page.html: no such folder nowhere"),
        (["--repeats=0"], "error: Invalid value for '--repeats'"),
    ],
)
def test_bad_input_is_one_line(more: list[str], line: str, swappable_bundle: Exported) -> None:
    result = run(swappable_bundle.bundle, *more)
    assert result.exit_code == ExitCode.BAD_INPUT
    assert result.stdout == ""
    (found,) = result.stderr.splitlines()
    assert found.startswith(line)


def test_bundles_that_do_different_things(swappable_bundle: Exported, llama_bundle: Exported) -> None:
    result = run(swappable_bundle.bundle, "--against", str(llama_bundle.bundle))
    assert result.exit_code == ExitCode.BAD_INPUT
    (found,) = result.stderr.splitlines()
    assert found.startswith(
        f"error: --against {llama_bundle.bundle}: its graph (prefill, token; task causal-lm) cannot be"
    )


def test_a_file_in_the_way_stays(merged_bundle: Exported, tmp_path: Path) -> None:
    html = tmp_path / "page.html"
    html.write_text("mine")
    more = ["--report", str(html), "--repeats=1", "--batch=1", "--length=2"]
    result = run(merged_bundle.bundle, *more)
    assert (result.exit_code, html.read_text()) == (ExitCode.BAD_INPUT, "mine")
    assert result.stderr == f"error: --report {html}: already there; choose another file or pass --force\n"
    assert run(merged_bundle.bundle, *more, "--force").exit_code == ExitCode.DONE
    Page(html.read_text(encoding="utf-8"))
