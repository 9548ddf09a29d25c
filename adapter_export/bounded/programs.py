"""Regular expressions and chat templates of a checkpoint, under limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from adapter_export.bounded.child import Keeper

# Real expressions and templates take milliseconds and some MB. The memory is that of the whole process.
SECONDS = 5.0
keeper = Keeper(memory=512 << 20)


def matching(patterns: Sequence[str], names: Iterable[str], *, whole: bool = True) -> set[str]:
    """Those of the names that one of the regular expressions matches: as a whole (re.fullmatch), or from the start
    (re.match).

    Raises Failed for what is no expression, and Exceeded.
    """
    listed = list(names)
    request = {"kind": "match", "patterns": patterns, "names": listed, "whole": whole}
    found = keeper.ask(request, SECONDS)["found"]
    return {name for name, matches in zip(listed, found, strict=True) if matches}


def render(template: str, given: Mapping[str, Any]) -> str:
    """The text that a chat template makes of what it is given, which is JSON. Raises Failed and Exceeded."""
    return str(keeper.ask({"kind": "render", "template": template, "given": dict(given)}, SECONDS)["text"])
