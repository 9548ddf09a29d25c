"""What callers may choose for a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from adapter_export.errors import InputError
from adapter_export.runtime.adapters.choice import Composition, chosen, head_among, names_of


def test_compositions_are_equal_whatever_their_order_and_types() -> None:
    one = Composition.of({"b": np.float32(0.5), "a": 2})
    assert one == Composition((("a", 2.0), ("b", 0.5)))
    assert hash(one) == hash(Composition.of({"a": 2, "b": 0.5}))
    assert (str(one), one.names) == ("a=2,b=0.5", ("a", "b"))
    assert one != Composition.of({"a": 2, "b": 0.5}, head="a")


def test_one_adapter_as_it_was_trained_is_the_adapter() -> None:
    assert chosen({"a": 1}) == chosen({"a": 1.0}, "a") == chosen("a") == "a"
    assert chosen({"a": 0.5}) == Composition.of({"a": 0.5})
    assert chosen(None) is None
    assert names_of("a") == ("a",)


def test_a_head_is_added_to_a_composition_that_names_none() -> None:
    plain, own = Composition.of({"a": 2, "b": 1}), Composition.of({"a": 2, "b": 1}, head="a")
    assert chosen(plain, "b") == chosen({"a": 2, "b": 1}, "b") == Composition.of({"a": 2, "b": 1}, head="b")
    assert chosen(own, "b") == own


@pytest.mark.parametrize(
    ("choice", "head", "message"),
    [
        ({}, None, "adapter: expected at least one name with a strength, found none"),
        ({"a": float("nan")}, None, "adapter 'a': expected a finite number as its strength, found nan"),
        ({"a": "1"}, None, "adapter 'a': expected a finite number as its strength, found '1'"),
        ({"a": True}, None, "adapter 'a': expected a finite number as its strength, found True"),
        ({1: 1.0}, None, "adapter: expected names, found 1"),
        ({"a": 1, "b": 1}, "c", "head 'c': expected one of a, b"),
        ("a", "a", "head 'a': expected several adapters with strengths, found 'a'"),
        (None, "a", "head 'a': expected several adapters with strengths, found None"),
        (["a"], None, r"adapter: expected a name, or strengths by name, found \['a'\]"),
    ],
)
def test_choices_that_are_refused(choice: Any, head: str | None, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}$"):
        chosen(choice, head)


def test_each_name_is_given_once() -> None:
    with pytest.raises(InputError, match="adapter: expected each name once, found a, a"):
        Composition((("a", 1.0), ("a", 2.0)))


def test_whose_head() -> None:
    key = Composition.of({"a": 1, "b": 2})
    assert head_among(key, {"a": False, "b": True}) == "b"
    assert head_among(key, {"a": False, "b": False}) is None
    with pytest.raises(InputError, match="adapters a, b: each has a task head; choose one of them as head"):
        head_among(key, {"a": True, "b": True})
    assert head_among(Composition.of({"a": 1, "b": 2}, head="a"), {"a": True, "b": True}) == "a"
    with pytest.raises(InputError, match="head 'a': this adapter has no task head"):
        head_among(Composition.of({"a": 1, "b": 2}, head="a"), {"a": False, "b": True})
