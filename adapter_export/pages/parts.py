"""What pages consist of. Each class names the macro of `templates/parts.html` that shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from markupsafe import Markup


class Part(Protocol):
    """A part of a section."""

    @property
    def kind(self) -> str:
        """Name of its macro."""


@dataclass(frozen=True)
class Word:
    """A cell with a verdict: a sign, the word, and the colour of `verdict`."""

    text: str
    verdict: str


@dataclass(frozen=True)
class Paragraph:
    """A text."""

    kind: ClassVar[str] = "paragraph"
    text: str


@dataclass(frozen=True)
class Title:
    """A heading below that of the section. With a verdict, that is shown behind it."""

    kind: ClassVar[str] = "title"
    text: str
    verdict: Word | None = None


@dataclass(frozen=True)
class Items:
    """A list of texts."""

    kind: ClassVar[str] = "items"
    texts: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table. The first cell of each row is the row's header.

    Attributes:
        caption: What it shows.
        columns: Names of the columns.
        rows: The cells, one for each column: texts, numbers, or a `Word`.
        text: What its numbers mean, below the table; empty for nothing.
        texts: Numbers of the columns that hold sentences, from 0. The first column always counts as one.
    """

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    text: str = ""
    texts: Sequence[int] = ()


@dataclass(frozen=True)
class Facts:
    """A table of names and values, for values of any length."""

    kind: ClassVar[str] = "facts"
    caption: str
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Plot:
    """A plot: its title above, and below what it shows in words."""

    title: str
    drawing: Markup
    text: str


@dataclass(frozen=True)
class Plots:
    """Plots, side by side where there is room. `level` is that of their headings."""

    kind: ClassVar[str] = "plots"
    plots: Sequence[Plot]
    level: int = 4


@dataclass(frozen=True)
class HeatCell:
    """A cell of a heat map.

    Attributes:
        text: Its number.
        level: Its background, from 0 (good) to 3 (bad); None for none.
        mark: What the background says, in a word; empty where that needs no word.
    """

    text: str
    level: int | None = None
    mark: str = ""


@dataclass(frozen=True)
class HeatMap:
    """A table of coloured cells. Rows and columns are any two things: cases and adapters, or sites and cases.

    It is a table and no drawing, so that it breaks between printed pages, and can be read aloud.

    Attributes:
        caption: What it shows.
        corner: What the rows are.
        columns: Names of the columns.
        rows: Names of the rows.
        cells: The cells by row and column; those that are missing stay empty.
        levels: What each background means, in the order of `HeatCell.level`.
        text: What the numbers mean.
    """

    kind: ClassVar[str] = "heat_map"
    caption: str
    corner: str
    columns: Sequence[str]
    rows: Sequence[str]
    cells: Mapping[tuple[str, str], HeatCell]
    levels: Sequence[str]
    text: str


@dataclass(frozen=True)
class Block:
    """A box of a drawing of a model: its title, a text, and what is inside it."""

    title: str
    text: str = ""
    inside: Sequence[str] = ()


@dataclass(frozen=True)
class Drawing:
    """A model from its inputs, at the top, to its outputs, as boxes with arrows between them."""

    kind: ClassVar[str] = "drawing"
    label: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Section:
    """A section of a page.

    Attributes:
        id: Its anchor.
        title: Its heading.
        parts: What it consists of.
    """

    id: str
    title: str
    parts: Sequence[Part]
