"""Pages: every text is escaped, whatever it holds; the style has light colours on paper; extras are checked early."""

from __future__ import annotations

import pytest

from adapter_export.machine import Machine
from adapter_export.pages import render as render_module
from adapter_export.pages.colours import PALETTE
from adapter_export.pages.parts import (
    Block,
    Drawing,
    Facts,
    HeatCell,
    HeatMap,
    Items,
    Paragraph,
    Plot,
    Plots,
    Section,
    Table,
    Title,
    Word,
)
from adapter_export.pages.plots.dots import Dots, dot_plot
from adapter_export.pages.render import check_plots, machine_facts, machine_line, render
from tests.pages.checked import Page

EVIL = """<script>alert("x")</script><img src=x onerror='alert(1)'>&amp;{{ 7 * 7 }} "quoted" 'too'"""
MACHINE = Machine("2026-11-28T09:30:00+00:00", "A processor", 2, "Linux 6", {"onnxruntime": "1.31.1"})


def everything(text: str) -> str:
    """A page with every kind of part, and `text` in every place that takes one."""
    plot = Plot(text, dot_plot("p", text, [Dots(text, [1e-6, 2e-6])], text), text)
    parts = [
        Paragraph(text),
        Title(text, Word(text, "fail")),
        Items([text]),
        Table(text, (text, text), [(text, Word(text, "pass")), (text, 3)], text, texts=(1,)),
        Facts(text, [(text, text)]),
        Plots([plot], level=4),
        HeatMap(text, text, [text], [text, "b"], {(text, text): HeatCell(text, 3, text)}, [text] * 4, text),
        Drawing(text, [Block(text, text, [text])]),
    ]
    return render(text, [text], [Section("one", text, parts)], Word(text, "inconclusive"))


def test_a_page_escapes_what_it_shows() -> None:
    page = everything(EVIL)
    found = Page(page)
    assert EVIL in found.cells
    assert found.plots == [EVIL]
    assert (1, EVIL) in found.headings
    assert "<script" not in page
    assert "49" not in found.text.split()


def test_marks_of_direction_are_shown() -> None:
    assert "a\\u202eb" in everything("a\u202eb")
    assert "\u202e" not in everything("a\u202eb")


def test_texts_of_plots_are_texts() -> None:
    """Formulas stay as they are, and what no font has raises nothing."""
    page = everything("$x^2$ 猫 \U0001f431")
    assert page.count("$x^2$ 猫 \U0001f431</text>") == 2


def test_a_verdict_has_a_sign_and_its_word() -> None:
    page = render("t", [], [], Word("pass (unwitnessed)", "pass"))
    assert "\u2713 pass (unwitnessed)" in Page(page).text


def test_a_page_may_not_load_or_run_anything() -> None:
    """Should a text ever get into a page unescaped, browsers refuse what it asks for."""
    policy = """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">"""
    assert policy in render("t", [], [])


def test_colours() -> None:
    """Dark colours count on screens alone, so that paper stays white."""
    page = render("t", [], [])
    for name, (light, dark) in PALETTE.items():
        assert f"--{name}: {light};" in page.partition("@media screen and (prefers-color-scheme: dark)")[0]
        assert f"--{name}: {dark};" in page.partition("@media screen and (prefers-color-scheme: dark)")[2]


def test_the_machine() -> None:
    assert list(machine_line(None)) == list(machine_facts(None)) == []
    (line,) = machine_line(MACHINE)
    assert line == "Measured 2026-11-28T09:30:00+00:00 on A processor, with ONNX Runtime 1.31.1."
    assert ("onnxruntime", "1.31.1") in list(machine_facts(MACHINE))


def test_plots_need_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    check_plots()
    monkeypatch.setattr(render_module, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match="matplotlib"):
        check_plots()
