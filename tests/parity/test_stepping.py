"""Steps cover the text, and mix every kind of step."""

from __future__ import annotations

import pytest

from adapter_export.parity.stepping import steps


@pytest.mark.parametrize(
    ("length", "expected"),
    [(1, [1]), (2, [1, 1]), (3, [1, 1, 1]), (4, [2, 1, 1]), (9, [4, 1, 1, 3]), (64, [32, 1, 1, 30])],
)
def test_a_prompt_single_tokens_and_the_rest(length: int, expected: list[int]) -> None:
    assert steps(length) == expected
    assert sum(steps(length)) == length
