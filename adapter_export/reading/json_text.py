"""Parses JSON strictly: the names of an object must differ, numbers have a limited length, and texts have whole
characters.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

# Whole numbers of this many digits become floats without an error. Longer numbers have no use here, and Python refuses
# to read or print numbers of more than some 4,300 digits.
_MAX_DIGITS = 300
# Half of a surrogate pair, on its own or as part of a pair.
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


class NotJson(Exception):
    """Says what is wrong with a text that should be JSON, in one line."""


def parse(text: str) -> Any:
    """Returns the value of a JSON text.

    Raises:
        NotJson: The syntax is broken, an object has a name twice, the value is nested too deep, a number is too long,
            or a text has half of a surrogate pair.
    """
    try:
        value = json.loads(text, object_pairs_hook=_distinct, parse_int=_integer)
        # JSON can contain half of a surrogate pair ("\\ud83d" alone), which cannot be printed, written or tokenised.
        if _HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except (json.JSONDecodeError, RecursionError) as error:
        raise NotJson(" ".join(str(error).split())[:200]) from None
    except UnicodeEncodeError:
        raise NotJson("half of a surrogate pair") from None
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns an object. Raises NotJson if two names are equal: readers disagree on which value they take."""
    value = dict(pairs)
    if len(value) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise NotJson(f"field {name[:100]!r} twice in one object")
    return value


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise NotJson(f"a number of {len(digits):,} digits")
    return int(digits)
