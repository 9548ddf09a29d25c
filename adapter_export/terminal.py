"""Makes the output of commands safe for a terminal.

Texts from files may hold characters that a terminal obeys: it changes its title, hides lines, or writes from right to
left. Such characters are shown as escapes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console

_LINES = "\n\t"
# C0, DEL and C1; marks, embeddings, overrides and isolates of text direction; separators of lines and paragraphs.
_OBEYED = (*range(0x20), *range(0x7F, 0xA0), 0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))
# Halves of surrogate pairs, which no stream can write. Python holds bytes of file names that are not UTF-8 in this
# form.
_SURROGATES = range(0xD800, 0xE000)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


_IN_LINES = {code: _escape(code) for code in (*_OBEYED, *_SURROGATES) if chr(code) not in _LINES}
_IN_A_LINE = {**_IN_LINES, ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}


def visible(text: str, lines: bool = True) -> str:
    """Returns the text with escapes in place of characters that a terminal obeys.

    Args:
        text: The text.
        lines: Whether line breaks and tabs are kept.
    """
    return text if text.isascii() and text.isprintable() else text.translate(_IN_LINES if lines else _IN_A_LINE)


class _Visible:
    """A text stream that makes everything visible. It has no `buffer`, as bytes would bypass it."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(visible(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":
            raise AttributeError(name)
        return getattr(self.stream, name)


@contextmanager
def written() -> Iterator[None]:
    """Within the `with` statement, all text for stdout and stderr is made visible: results, errors, warnings, logs,
    tracebacks.

    Anything that draws on a terminal uses `console`.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast("TextIO", _Visible(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def console(stderr: bool = False) -> Console:
    """Returns a console of Rich that sends its own control codes to the terminal, and no others.

    Texts are shown as they are, also if they have `[b]` or `:x:` in them.
    """
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class Own(Console):
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else visible(text), style, control)

    stream = sys.stderr if stderr else sys.stdout
    return Own(file=stream.stream if isinstance(stream, _Visible) else stream, markup=False, emoji=False)
