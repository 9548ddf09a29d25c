"""Class names from files and configs."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from adapter_export.checkpoints.labels import class_names, parse_labels
from adapter_export.errors import InputError
from tests.strategies import file_of, json_values, texts

# Python's idea of a line's end is wider than a file's.
lines = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=10).filter(
    lambda line: line.strip() == line != ""
)


@given(st.lists(lines, min_size=1, max_size=5), st.booleans(), st.booleans())
def test_a_name_a_line(names: list[str], mark: bool, returns: bool) -> None:
    text = ("\r\n" if returns else "\n").join(names) + "\n"
    with file_of(text.encode("utf-8-sig" if mark else "utf-8"), "names") as path:
        if not mark and text.startswith("\ufeff"):
            names = [names[0].removeprefix("\ufeff"), *names[1:]]
        assert parse_labels([f"a=@{path}"], ["a", "b"]) == {"a": tuple(names)}


@given(st.binary(max_size=100))
def test_any_bytes(data: bytes) -> None:
    with file_of(data, "names") as path:
        said = ""
        try:
            parse_labels([f"a=@{path}"], ["a"])
        except InputError as error:
            said = str(error)
    assert len(said.splitlines()) <= 1


@given(st.lists(texts.filter(lambda name: not re.fullmatch(r"LABEL_\d+", name)), min_size=1, max_size=5), st.booleans())
def test_names_of_a_config(names: list[str], as_text: bool) -> None:
    numbered = {str(number) if as_text else number: name for number, name in enumerate(names)}
    assert class_names({"id2label": dict(reversed(numbered.items()))}) == tuple(names)


@given(json_values | st.dictionaries(st.sampled_from(["0", "1", "x"]), json_values))
def test_any_value(value: object) -> None:
    found = class_names({"id2label": value})
    assert found is None or (isinstance(value, dict) and list(found) == [value[str(i)] for i in range(len(value))])
