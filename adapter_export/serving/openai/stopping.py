"""Ends a text at the first of several stop texts."""

from __future__ import annotations

from collections.abc import Sequence


class StopTexts:
    """Receives a text in parts, and returns what is certain to come before every stop text."""

    def __init__(self, stops: Sequence[str]) -> None:
        """Takes the stop texts.

        Args:
            stops: Texts that end the text; they are not part of it. None of them is empty.
        """
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, part: str) -> str:
        """Adds a part, and returns the text that is certain now. `stopped` is true after a stop text."""
        if self.stopped:
            return ""
        text = self._held + part
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        held = max((_begun(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def rest(self) -> str:
        """Returns what was held back, at the end of the text."""
        rest, self._held = self._held, ""
        return rest


def _begun(text: str, stop: str) -> int:
    """Returns the length of the longest end of the text that a stop text begins with."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
