"""Reads a page as HTML, and insists on what every page of this project promises."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise

# Elements that have no end tag in HTML.
_EMPTY = {"meta"}
_ALONE = {"script", "link", "img", "iframe", "object", "form", "input"}


class Page(HTMLParser):
    """A parsed page, which is whole, has its landmarks, and needs nothing from elsewhere.

    Attributes:
        text: All its text, spaces made one.
        cells: Texts of the cells of its tables.
        plots: The descriptions of its plots.
        headings: Its headings, as level and text.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.text, self.cells, self.plots, self.headings = "", set(), [], []
        self._open: list[str] = []
        self._ids: list[str] = []
        self._links: list[str] = []
        self._tags: list[str] = []
        self._cell = self._heading = ""
        self.feed(source)
        self.close()
        self.text = " ".join(self.text.split())
        assert self._open == []
        assert not _ALONE & set(self._tags)
        for tag in ("h1", "main", "nav", "header", "title"):
            assert self._tags.count(tag) == 1, tag
        assert self._tags.count("caption") == self._tags.count("table")
        assert len(self._ids) == len(set(self._ids))
        assert all(link.startswith("#") and link[1:] in self._ids for link in self._links)
        levels = [level for level, _ in self.headings]
        assert all(after <= before + 1 for before, after in pairwise(levels))
        assert not re.search(r"https?:|@import|url\((?!#)", source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._tags.append(tag)
        assert not any(name.startswith("on") or name == "src" for name in given)
        self._ids += [value for name, value in attrs if name == "id" and value]
        self._links += [value for name, value in attrs if name.endswith("href") and value]
        if tag == "th":
            assert given.get("scope") in ("col", "row")
        if tag == "svg":
            assert given.get("role") == "img"
            self.plots.append(given["aria-label"])
        if tag in ("td", "th"):
            self._cell = ""
        if re.fullmatch("h[1-6]", tag):
            self._heading = ""
        if tag not in _EMPTY:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag in ("td", "th"):
            self.cells.add(" ".join(self._cell.split()))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), " ".join(self._heading.split())))

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data
        self._cell += data
        self._heading += data
