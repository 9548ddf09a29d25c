"""JSON that readers could take in two ways, or not at all."""

from __future__ import annotations

import json

import pytest

from adapter_export.reading.json_text import NotJson, parse


@pytest.mark.parametrize(
    "text",
    ["{}", "[1, 2.5, null, true]", '{"a": {"b": "\\u00e9"}, "c": []}', '"x"', "1e999", r'"\ud83d\uDE00"', r'"\\ud83d"'],
)
def test_what_is_right_is_read_as_python_does(text: str) -> None:
    assert parse(text) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ('{"a": 1, "a": 1}', "field 'a' twice in one object"),
        ('[{"b": {"a": 1, "x": 2, "a": 3}}]', "field 'a' twice in one object"),
        ("[" * 200_000, "recursion"),
        ("1" * 5000, "a number of 5,000 digits"),
        ("[9" + "9" * 300 + "]", "a number of 301 digits"),
        ("\ufeff{}", "BOM"),
        (r'["\ud83d"]', "half of a surrogate pair"),
        (r'[{"\uDE00\uD83D": 1}]', "half of a surrogate pair"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(text: str, message: str) -> None:
    with pytest.raises(NotJson, match=message) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_every_whole_number_has_a_float() -> None:
    """So that no reader of a config has to think of it."""
    assert float(parse("9" * 300)) == 1e300
    assert float(parse("-" + "9" * 299)) == -1e299


def test_a_hundred_thousand_names_take_no_time_of_note() -> None:
    """With a search of all names for each, this would not end within the test."""
    names = ", ".join(f'"{number}": 0' for number in range(200_000))
    with pytest.raises(NotJson, match="field '199999' twice in one object"):
        parse("{" + names + ', "199999": 1}')
