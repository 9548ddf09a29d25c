"""Pages of both commands in a real Chromium: what readers with a phone, a keyboard, a dark screen or paper meet."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapter_export.benchmarking.page import page as bench_page
from adapter_export.benchmarking.report import as_dict, bench
from adapter_export.pages.colours import PALETTE
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.criteria.measure import TokenAgreement, TokenDifference
from adapter_export.parity.page.page import parity_page
from adapter_export.parity.report import ParityReport
from tests.bundles import Exported
from tests.pages.browser import look
from tests.recorded import Recorded

# Each page is drawn in software eight times.
pytestmark = pytest.mark.slow

LONG = "x" * 64
PHONE = 390


def hard(report: ParityReport) -> ParityReport:
    """The report with what fits least: a failure, long names and paths, many tokens that differ."""
    first, *rest = report.results
    tokens = TokenAgreement(64, 60, 59, tuple(TokenDifference(1, step, 17, 23, 0.25, True) for step in range(16)))
    reasons = (f"e(O) = 5.00e-01 is above {LONG}",)
    failed = replace(first, judgement=replace(first.judgement, verdict=Verdict.FAIL, reasons=reasons, tokens=tokens))
    names = {name: LONG if name == "ia3_two" else name for name in {item.adapter for item in report.results}}
    results = tuple(replace(item, adapter=names[item.adapter]) for item in (failed, *rest))
    return replace(report, bundle=Path("/" + "/".join([LONG] * 3)), results=results, notes=(LONG * 3,))


@pytest.fixture(scope="module")
def views(
    recorded: Recorded, swappable_bundle: Exported, bank_bundle: Exported, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What the browser makes of both pages."""
    measured = bench(bank_bundle.bundle, swappable_bundle.bundle, batches=[1, 3], lengths=[4], repeats=2, threads=1)
    result = as_dict(measured)
    for row in (*result["latency"], *result["comparisons"]):
        row["run"] = LONG if row["run"] == "ia3_two" else row["run"]
    pages = {"parity": parity_page(hard(recorded.report)), "bench": bench_page(result)}
    found = {}
    for name, text in pages.items():
        folder = tmp_path_factory.mktemp(name)
        (folder / "page.html").write_text(text, encoding="utf-8")
        found[name] = {**look(folder / "page.html", folder), "folder": folder, "source": text}
    return found


every_page = pytest.mark.parametrize("name", ["parity", "bench"])


def rgb(name: str, scheme: int) -> str:
    return f"rgb{tuple(bytes.fromhex(PALETTE[name][scheme][1:]))}"


@every_page
def test_the_console_is_silent_and_nothing_is_fetched(name: str, views: dict[str, dict[str, Any]]) -> None:
    assert views[name]["messages"] == []
    assert {url.rpartition("/")[2] for url in views[name]["requests"]} == {"page.html"}


@every_page
def test_everything_fits(name: str, views: dict[str, dict[str, Any]]) -> None:
    """At each width, and no text of a plot reaches out of it. What is wider can be scrolled with the keyboard."""
    found = views[name]
    assert [(view["scheme"], view["width"]) for view in found["views"]] == [
        (scheme, width) for scheme in ("light", "dark") for width in (PHONE, 820, 1400)
    ]
    assert [view["misfits"] for view in found["views"]] == [[]] * 6
    reached = {stop["name"] for stop in found["focus"]}
    assert found["scrolled"]
    assert set(found["scrolled"]) <= reached


@every_page
def test_accessibility(name: str, views: dict[str, dict[str, Any]]) -> None:
    """axe: names, roles, order of headings, landmarks, contrast as it is drawn, in both schemes."""
    checked = [view for view in views[name]["views"] if "violations" in view]
    assert [view["scheme"] for view in checked] == ["light", "dark"]
    assert [view["violations"] for view in checked] == [[], []]


@every_page
def test_the_keyboard_reaches_everything(name: str, views: dict[str, dict[str, Any]]) -> None:
    focus = views[name]["focus"]
    assert focus[0]["name"] == "Skip to the content"
    assert [stop["tag"] for stop in focus].count("A") == views[name]["source"].count("<a ")
    assert [stop["tag"] for stop in focus].count("DIV") == views[name]["source"].count('class="scroll"')
    assert {stop["outline"] for stop in focus} == {"solid"}


@every_page
def test_schemes_and_paper(name: str, views: dict[str, dict[str, Any]]) -> None:
    """A dark screen prints black on white; nothing is cut off on paper, where nothing scrolls."""
    found = views[name]
    for view in found["views"]:
        assert view["background"] == rgb("paper", view["scheme"] == "dark")
    assert (found["print"]["background"], found["print"]["ink"]) == (rgb("paper", 0), rgb("ink", 0))
    assert (found["print"]["misfits"], found["print"]["cut"]) == ([], [])
    assert (found["folder"] / "page.pdf").read_bytes().startswith(b"%PDF")


@every_page
def test_screenshots(name: str, views: dict[str, dict[str, Any]]) -> None:
    """They have the widths that were asked for; the light ones are whole pages."""
    for view in views[name]["views"]:
        file = views[name]["folder"] / f"{view['scheme']}-{view['width']}.png"
        width, height = struct.unpack(">II", file.read_bytes()[16:24])
        assert width == view["width"]
        assert height > 2000 if view["scheme"] == "light" else height == 900
