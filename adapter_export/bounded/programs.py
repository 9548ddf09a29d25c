"""Runs regular expressions and chat templates of a checkpoint with limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from adapter_export.bounded.child import Keeper

# Real expressions and templates take milliseconds and some MB. The limit of memory is for the whole process.
SECONDS = 5.0
keeper = Keeper(memory=512 << 20)


def matching(patterns: Sequence[str], names: Iterable[str], *, whole: bool = True) -> set[str]:
    """Returns those of the names that one of the regular expressions matches.

    Args:
        patterns: The regular expressions.
        names: The names.
        whole: Whether to match the whole name (re.fullmatch), or its beginning (re.match).

    Raises:
        Failed: A pattern is no regular expression.
        Exceeded: Matching takes too much time or memory.
    """
    listed = list(names)
    request = {"kind": "match", "patterns": patterns, "names": listed, "whole": whole}
    found = keeper.ask(request, SECONDS)["found"]
    return {name for name, matches in zip(listed, found, strict=True) if matches}


def render(template: str, given: Mapping[str, Any]) -> str:
    """Returns the text that a chat template makes of JSON values. Raises Failed and Exceeded."""
    return str(keeper.ask({"kind": "render", "template": template, "given": dict(given)}, SECONDS)["text"])
