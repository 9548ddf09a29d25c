"""JSON from somewhere else, read strictly: every object's names differ, numbers are of a bounded length, and texts are
of whole characters."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

# Whole numbers of so many digits become floats without an error. Longer ones are none of anything, and from some 4,300
# on Python refuses to read or print them.
_MAX_DIGITS = 300
# A half, or a whole of two.
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


class NotJson(Exception):
    """What is wrong with a text that should be JSON, in one line."""


def parse(text: str) -> Any:
    """The value that the text spells. Raises NotJson for broken syntax, a name twice in one object, what is nested too
    deep, a number too long, and half a character."""
    try:
        value = json.loads(text, object_pairs_hook=_distinct, parse_int=_integer)
        # JSON can spell half of a surrogate pair ("\\ud83d" alone), which nothing can print, write or tokenize.
        if _HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except (json.JSONDecodeError, RecursionError) as error:
        raise NotJson(" ".join(str(error).split())[:200]) from None
    except UnicodeEncodeError:
        raise NotJson("half of a surrogate pair") from None
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are all different: readers disagree on which of two they take."""
    value = dict(pairs)
    if len(value) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise NotJson(f"field {name[:100]!r} twice in one object")
    return value


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise NotJson(f"a number of {len(digits):,} digits")
    return int(digits)
