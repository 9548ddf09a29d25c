"""Module paths of older transformers versions, and what they are called now.

Checkpoints keep the names of the version they were made with, in tensor names and in target modules. An architecture's
record lists pairs (transformers 4, today), of which the first that fits counts. `N` is a number; a pair holds for the
module, for all below it, and whatever a task class or a library puts before. Found by comparing `named_modules()` of
every architecture under transformers 4.57.6 and 5.23.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from adapter_export.architectures.registry import facts


def canonical(model_type: str, path: str) -> str:
    """The module path of today for one of any version; a path that never changed, or is unknown, stays as it is.

    Paths may go on below the module (`....key.weight`) and may start above the base model (`base_model.model.vit....`).
    """
    return _translate(path, facts(model_type).renames)


def former(model_type: str, path: str) -> str:
    """The path that transformers 4 had for a module of today, below the base model: what an old checkpoint's target
    modules were matched against."""
    return _translate(path, [(now, then) for then, now in facts(model_type).renames])


def _translate(path: str, pairs: Iterable[tuple[str, str]]) -> str:
    for source, target in pairs:
        if match := _pattern(source).search(path):
            new = target
            for number in match.groups()[1:]:
                new = re.sub(r"\.N\b", f".{number}", new, count=1)
            return path[: match.start(1)] + new + path[match.end(1) :]
    return path


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(r"(?:^|\.)(" + re.escape(path).replace(r"\.N", r"\.(\d+)") + r")(?:\.|$)")
