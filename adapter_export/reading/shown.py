"""Wrong values as error messages show them."""

from __future__ import annotations

import reprlib

# Characters of a wrong value that an error message shows.
_MAX_SHOWN = 200


def shortened(value: object) -> str:
    """`value` as an error message shows it: in one line of bounded length, however long or deep it is."""
    text = reprlib.repr(value) if isinstance(value, (dict, list)) else repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
