"""The arithmetic of composing tensors, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from adapter_export.composition import CompositionRule, composed, strengthened
from adapter_export.errors import InputError

JOINED, SCALED, ADDED, MULTIPLIED = CompositionRule


def test_joined_along_the_free_dim_whatever_the_strengths() -> None:
    one, two = np.array([[1.0], [2.0]]), np.array([[3.0, 4.0], [5.0, 6.0]])
    found = composed([one, two], [0.5, 2], JOINED, (2, "rank"), 0)
    np.testing.assert_array_equal(found, [[1, 3, 4], [2, 5, 6]])
    np.testing.assert_array_equal(composed([one.T, two.T], [0.5, 2], JOINED, ("rank", 2), 0), found.T)


def test_joined_and_scaled() -> None:
    found = composed([np.array([1.0]), np.array([2.0, 3.0])], [0.5, -2], SCALED, ("rank",), 0)
    np.testing.assert_array_equal(found, [0.5, -4, -6])


def test_added_around_the_identity() -> None:
    tensors = [np.array([3.0, 1.0]), np.array([0.0, 2.0])]
    np.testing.assert_array_equal(composed(tensors, [0.5, 2], ADDED, (2,), 1), [1 + 1 - 2, 1 + 0 + 2])
    np.testing.assert_array_equal(composed(tensors, [0, 0], ADDED, (2,), 1), [1, 1])


def test_multiplied() -> None:
    tensors = [np.array([4.0, 9.0]), np.array([2.0, 3.0])]
    np.testing.assert_allclose(composed(tensors, [0.5, -1], MULTIPLIED, (2,), 1), [1, 1], rtol=1e-15)


def test_powers_of_negative_values_must_be_whole() -> None:
    np.testing.assert_array_equal(strengthened(np.array([-2.0]), MULTIPLIED, 1, 2), [4])
    with pytest.raises(InputError, match=r"strength 0\.5: the tensor has negative values"):
        strengthened(np.array([1.0, -2.0]), MULTIPLIED, 1, 0.5)


@pytest.mark.parametrize("rule", CompositionRule)
def test_no_strength_is_the_identity_and_one_is_the_tensor(rule: CompositionRule) -> None:
    tensor = np.array([2.0, 3.0])
    assert strengthened(tensor, rule, 1, 1) is tensor
    if rule is not JOINED:  # whose partner is scaled
        np.testing.assert_array_equal(strengthened(tensor, rule, 1, 0), [0, 0] if rule is SCALED else [1, 1])


def test_rounded_once() -> None:
    """In float32, 1 would be lost beside 2^24 twice."""
    large, small = np.array([2.0**24], np.float32), np.array([1.0], np.float32)
    found = composed([large, small, small], [1, 1, 1], ADDED, (1,), 0)
    assert found.dtype == np.float32
    assert found[0] == 2**24 + 2


def test_values_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="composition: expected values within float16, found larger ones"):
        composed([np.array([6e4], np.float16)] * 2, [1, 1], ADDED, (1,), 0)
    with pytest.raises(InputError, match="found larger ones"):
        composed([np.array([0.0])], [-1], MULTIPLIED, (1,), 1)
