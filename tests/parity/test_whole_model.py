"""The steps of a text cover all of it, and mix every kind of step."""

from __future__ import annotations

import pytest

from adapter_export.parity.whole_model import step_sizes


@pytest.mark.parametrize(
    ("length", "expected"),
    [(1, [1]), (2, [1, 1]), (3, [1, 1, 1]), (4, [2, 1, 1]), (9, [4, 1, 1, 3]), (64, [32, 1, 1, 30])],
)
def test_about_half_then_single_tokens_then_the_rest(length: int, expected: list[int]) -> None:
    assert step_sizes(length) == expected
    assert sum(step_sizes(length)) == length
