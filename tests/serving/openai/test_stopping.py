"""Stop texts: whatever the parts are, the text ends where the complete text would."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapter_export.serving.openai.stopping import StopTexts

LETTERS = st.text("ab", max_size=8)


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop text to be complete, and whether there is one."""
    for end in range(len(text) + 1):
        places = [text.index(stop) for stop in stops if stop in text[:end]]
        if places:
            return text[: min(places)], True
    return text, False


def pushed(parts: Sequence[str], stops: Sequence[str]) -> tuple[str, bool]:
    found = StopTexts(stops)
    text = "".join(found.push(part) for part in parts)
    stopped = found.stopped
    return text + ("" if stopped else found.rest()), stopped


@given(st.lists(LETTERS, max_size=5), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_parts_do_not_matter(parts: list[str], stops: list[str]) -> None:
    # A letter at a time, as nothing can be complete between two letters.
    letters = list("".join(parts))
    assert pushed(letters, stops) == cut("".join(parts), stops)


@given(st.lists(LETTERS, max_size=5), st.text("ab", min_size=1, max_size=4))
def test_one_stop_text_in_any_parts(parts: list[str], stop: str) -> None:
    text = "".join(parts)
    assert pushed(parts, [stop]) == ((text[: text.index(stop)], True) if stop in text else (text, False))


def test_what_may_become_a_stop_text_is_held_back() -> None:
    found = StopTexts(["END"])
    assert [found.push(part) for part in ("a E", "N", "x", "EN", "D more", "b")] == ["a ", "", "ENx", "", "", ""]
    assert found.stopped


@pytest.mark.parametrize("stops", [[], ["zz"]])
def test_without_a_stop_text_all_is_returned_at_the_end(stops: list[str]) -> None:
    assert pushed(["az", "b", "z"], stops) == ("azbz", False)
