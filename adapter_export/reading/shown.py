"""Shows wrong values in error messages."""

from __future__ import annotations

import reprlib

# The most characters of a wrong value in an error message.
_MAX_SHOWN = 200


def shortened(value: object) -> str:
    """Returns a value for an error message, in one line of limited length, however long or deeply nested it is."""
    text = reprlib.repr(value) if isinstance(value, (dict, list)) else repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
