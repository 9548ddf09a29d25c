"""Module paths of older versions of transformers, and today's paths.

Checkpoints keep the names of the version that they were made with, in tensor names and in target modules. A record
lists pairs of paths (transformers 4, today), of which the first that fits counts. `N` is a number. A pair holds for the
module, for all modules below it, and with any prefix of a task class or a library. The pairs were found by comparing
`named_modules()` of every architecture under transformers 4.57.6 and 5.23.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from adapter_export.architectures.registry import facts


def canonical(model_type: str, path: str) -> str:
    """Returns today's module path for a path of any version. A path that never changed, or is unknown, is returned as
    it is.

    Paths may continue below the module (`....key.weight`) and may start above the base model
    (`base_model.model.vit....`).
    """
    return _translate(path, facts(model_type).renames)


def former(model_type: str, path: str) -> str:
    """Returns the path of transformers 4 for a module of today, below the base model.

    The target modules of an old checkpoint were matched against these paths.
    """
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
