"""Our strict JSON against Python's own."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_export.reading.json_text import NotJson, parse
from tests.fuzz import mutators
from tests.strategies import damaged, json_values

VALID = json.dumps({"a": [1, -2.5e3, True, None, "ü\n"], "b": {"c": {}, "d": "e"}}).encode()


@given(json_values, st.booleans(), st.none() | st.integers(0, 3))
def test_what_json_writes_is_read(value: Any, ascii_only: bool, indent: int | None) -> None:
    assert parse(json.dumps(value, ensure_ascii=ascii_only, indent=indent)) == value


@given(damaged(VALID) | damaged(VALID, mutators.of_json) | st.binary())
def test_it_takes_what_python_takes_but_for_what_readers_differ_on(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        expected = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        with pytest.raises(NotJson):
            parse(text)
        return
    try:
        found = parse(text)
    except NotJson as error:
        said = str(error)
    else:
        # repr, since NaN is not equal to itself.
        assert repr(json.loads(text)) == repr(found)
        assert repr(_pairs(found)) == repr(expected)
        return
    assert any(reason in said for reason in ("twice in one object", "digits", "half of a surrogate pair"))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=4), st.booleans())
def test_names_that_are_twice(pairs: list[tuple[str, int]], inside: bool) -> None:
    text = "{" + ", ".join(f'"{name}": {value}' for name, value in pairs) + "}"
    text = f'[{{"x": {text}}}]' if inside else text
    if len({name for name, _ in pairs}) == len(pairs):
        assert parse(text) == json.loads(text)
    else:
        with pytest.raises(NotJson, match="twice in one object"):
            parse(text)


def _pairs(value: Any) -> Any:
    """Objects as lists of their pairs: nothing of the text was dropped."""
    if isinstance(value, dict):
        return [(name, _pairs(item)) for name, item in value.items()]
    return [_pairs(item) for item in value] if isinstance(value, list) else value
