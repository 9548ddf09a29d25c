"""Which values agree, and which is the first that departs."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pytest

from adapter_export.parity.localizing.comparison import Paired, distance, first_departure, joined
from adapter_export.parity.localizing.graph_values import GraphValues
from adapter_export.parity.localizing.places import Place

RNG = np.random.default_rng(0)


def test_the_distance_is_relative_to_the_right_value() -> None:
    right = np.array([3.0, -3.0, 3.0])
    assert distance(right + np.array([0, 0.3, 0]), right) == pytest.approx(0.1)
    assert distance(right + np.array([0, 0.3, 0]), right, mean=True) == pytest.approx(0.1 / 3)
    assert distance(np.zeros(3), np.zeros(3)) == 0
    assert distance(np.ones(3), np.zeros(3)) == math.inf


def test_masked_values_are_masked_in_both_and_not_compared() -> None:
    right = np.array([1.0, 2.0, -1.8e308])
    assert distance(np.array([1.0, 2.0, -3.4e38]), right) == 0
    assert distance(np.array([1.0, 2.0, -np.inf]), right) == 0
    assert distance(np.array([1.0, 2.0, 3.0]), right) == math.inf
    assert distance(np.array([1.0, np.nan, -np.inf]), right) == math.inf


@pytest.mark.parametrize("axis", [1, 2])
def test_steps_are_joined_along_the_tokens(axis: int) -> None:
    whole = RNG.standard_normal((2, 6, 6, 3))
    runs = np.split(whole, [3, 4], axis=axis)
    found = joined(runs, whole.shape, rows=2)
    assert found is not None
    assert np.array_equal(found, whole)


def test_steps_with_the_tokens_of_all_rows_in_one_axis() -> None:
    whole = RNG.standard_normal((2, 6, 3))
    runs = [part.reshape(-1, 3) for part in np.split(whole, [3, 4], axis=1)]
    found = joined(runs, (12, 3), rows=2)
    assert found is not None
    assert np.array_equal(found, whole.reshape(12, 3))


def test_a_cache_has_all_tokens_in_the_last_step() -> None:
    whole = RNG.standard_normal((2, 4, 6, 3))
    found = joined([whole[:, :, :3], whole[:, :, :4], whole], whole.shape, rows=2)
    assert found is not None
    assert np.array_equal(found, whole)
    assert joined([whole[:, :, :3], whole[:, :, :4]], whole.shape, rows=2) is None
    assert joined([whole], (2, 24, 3), rows=2) is not None
    assert joined([whole], (2, 23, 3), rows=2) is None


class Chain:
    """A graph in which each value is computed from the one before it."""

    def next_known(self, value: str, known: Any) -> set[str]:
        later = [name for name in "abcdef" if name > value and name in known]
        return set(later[:1])


def pair(value: str, error: float, *, final: bool = False) -> Paired:
    return Paired(Place("g", value, value, final=final), np.zeros(1), np.zeros(1), error, limit=1e-5)


def first(*pairs: Paired) -> str | None:
    found = first_departure(pairs, {"g": cast("GraphValues", Chain())})
    return None if found is None else found.place.value


def test_the_first_that_departs() -> None:
    assert first(pair("a", 0), pair("b", 1e-6), pair("c", 1e-5)) is None
    assert first(pair("a", 0), pair("b", 1), pair("c", 2)) == "b"


def test_an_error_without_an_effect_is_a_wrong_pair() -> None:
    assert first(pair("a", 0), pair("b", 1), pair("c", 0), pair("d", 1), pair("e", 1)) == "d"
    assert first(pair("a", 0), pair("b", 1), pair("c", 0)) is None
    assert first(pair("a", 0), pair("b", 1, final=True), pair("c", 0)) == "b"


def test_a_clear_departure_goes_before_one_that_may_be_chance() -> None:
    assert first(pair("a", 2e-5), pair("b", 3e-5), pair("c", 1)) == "c"
    assert first(pair("a", 2e-5), pair("b", 3e-5), pair("c", 4e-5)) == "a"
