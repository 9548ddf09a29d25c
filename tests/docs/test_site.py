"""The pages together: links between them lead somewhere, and the site's pages are put together as they should be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import adapter_export
from docs import _commands, _site
from tests.docs.blocks import ROOT

PAGES = sorted(_site.sources())
# GitHub's anchor of a heading: lower case, letters, digits, `_` and `-`, each space one `-`.
_HEADING = re.compile(r"^#{1,6} (?P<title>.+?) *$", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Of all headings of a page; one that is there again has a number."""
    found: dict[str, int] = {}
    for match in _HEADING.finditer(_site.outside_fences(text, lambda part: part, lambda fence: "")):
        title = re.sub(r"\]\([^)]*\)", "]", match["title"])
        anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        found[anchor] = found.get(anchor, -1) + 1
    return {name if number == 0 else f"{name}-{number}" for name, count in found.items() for number in range(count + 1)}


def broken(source: str, text: str) -> list[str]:
    """The links of a page that lead nowhere. Of api.md, whose sections are made by the build, anchors are left out."""
    wrong = []
    for target in _site.links(text):
        path, _, anchor = target.partition("#")
        there = (ROOT / source).parent / path if path else ROOT / source
        if not there.is_file():
            wrong.append(target)
        elif anchor and there.suffix == ".md":
            known = anchors(text if not path else there.read_text(encoding="utf-8"))
            wrong += [target] * (anchor not in known)
    return wrong


@pytest.mark.parametrize("source", PAGES)
def test_links_lead_somewhere(source: str) -> None:
    assert broken(source, (ROOT / source).read_text(encoding="utf-8")) == []


def test_links_that_lead_nowhere_are_found() -> None:
    text = (
        "# One `two`: three\n## Again\n## Again\n"
        "[a](README.md) [b](nothing.md) [c](#one-two-three) [d](#again-1) [e](#again-2) [f](docs/serving.md#batching)\n"
        "[g](docs/parity.md#no) [h](https://example.org/x) `[i](code.md)` ``[j](`more.md)``\n"
        "```python\n[k](fenced.md)\n# Fenced\n```\n[l](#fenced)\n[m][]\n\n[m]: missing.md\n"
    )
    assert broken("README.md", text) == ["nothing.md", "#again-2", "docs/parity.md#no", "#fenced", "missing.md"]


def test_every_page_is_in_the_navigation() -> None:
    names = set(_site.sources().values())
    assert names == set(re.findall(r'"([\w-]+\.md)"', _site.config(names)))


def test_a_page_of_the_site(tmp_path: Path) -> None:
    files: set[Path] = set()
    home = _site.page("README.md", files)
    assert "](parity.md)" in home
    assert "](contributing.md)" in home
    assert not files
    assert "](files/samples/javascript/README.md)" in _site.page("docs/serving.md", files)
    samples = ("javascript/README.md", "web/README.md", "c/run.c")
    assert files == {ROOT / "samples" / name for name in samples}


def test_lists_tables_and_blocks_stand_apart() -> None:
    text = (
        "Text\n- one\n  more\n- two\n\nText\n| a |\n|---|\n| b |\n\nText\n```python\n- x\n| y |\n```\nText - no list\n"
    )
    assert _site.separated(text) == (
        "Text\n\n- one\n  more\n- two\n\nText\n\n| a |\n|---|\n| b |\n\nText\n\n```python\n- x\n| y |\n```\n\n"
        "Text - no list\n"
    )


def test_the_python_reference_has_every_name() -> None:
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    names = re.findall(r"^::: adapter_export\.(\w+)$", page, re.MULTILINE)
    assert sorted(names) == sorted(adapter_export.__all__)


def test_the_command_reference_is_what_the_commands_say() -> None:
    assert _commands.PAGE.read_text(encoding="utf-8") == _commands.page(), "run `make commands`"
