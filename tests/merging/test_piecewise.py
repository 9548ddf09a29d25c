"""Merge rules on pieces of a layer: rules that are made up, on layers that a reader can check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from adapter_export.errors import CannotMerge
from adapter_export.merging import piecewise
from adapter_export.merging.piecewise import MergeRule, StoredLayer, TensorChange, changes_bias, separable
from adapter_export.methods.contract import IN, OUT, SiteAdapter, TensorSpec
from adapter_export.sites import Port

Merged = tuple[np.ndarray, np.ndarray | None]


@dataclass(frozen=True)
class Rule:
    """An operator of which only the rule and the tensors matter."""

    rule: Callable[[np.ndarray, np.ndarray | None, Mapping[str, np.ndarray]], Merged]
    op_type: ClassVar[str] = "Rule"
    specs: ClassVar[Mapping[str, TensorSpec]] = {"a": TensorSpec((IN,), 1.0), "b": TensorSpec((OUT,), 1.0)}

    def merge(
        self, port: Port, weight: np.ndarray, bias: np.ndarray | None, tensors: Mapping[str, np.ndarray]
    ) -> Merged:
        return self.rule(weight, bias, tensors)


def both(weight: np.ndarray, bias: np.ndarray | None, tensors: Mapping[str, np.ndarray]) -> Merged:
    """W' = diag(b) W diag(a), b' = b * bias."""
    return weight * tensors["a"] * tensors["b"][:, None], None if bias is None else bias * tensors["b"]


def outputs_twice(weight: np.ndarray, bias: np.ndarray | None, tensors: Mapping[str, np.ndarray]) -> Merged:
    """Where u and y are the layer's output, both tensors have its features."""
    return weight * (tensors["a"] * tensors["b"])[:, None], bias


def normed(weight: np.ndarray, bias: np.ndarray | None, tensors: Mapping[str, np.ndarray]) -> Merged:
    """Rows of length 1, which no part of a row knows."""
    return weight / np.linalg.norm(weight, axis=1, keepdims=True), bias


def shifted(weight: np.ndarray, bias: np.ndarray | None, tensors: Mapping[str, np.ndarray]) -> Merged:
    """Y = W (x + a) + bias."""
    return weight, weight @ tensors["a"] + (0 if bias is None else bias)


def added(weight: np.ndarray, bias: np.ndarray | None, tensors: Mapping[str, np.ndarray]) -> Merged:
    """Bias' = bias + b; a layer without one stays so where there is nothing to add."""
    if bias is None:
        return weight, tensors["b"] if tensors["b"].any() else None
    return weight, bias + tensors["b"]


def of(rule: Any, port: Port, a: Any, b: Any) -> MergeRule:
    return MergeRule(port, SiteAdapter(Rule(rule), {"a": np.array(a, np.float64), "b": np.array(b, np.float64)}))  # type: ignore[arg-type]


WEIGHT = np.arange(1.0, 7.0, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize("piece", [1, 2, 3, 100])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (of(both, Port.BRANCH, [1, 10, 100], [2, 3]), [[2, 40, 600], [12, 150, 1800]]),
        (of(outputs_twice, Port.OUTPUT, [1, 10], [2, 3]), [[2, 4, 6], [120, 150, 180]]),
        (of(normed, Port.BRANCH, [1, 1, 1], [1, 1]), WEIGHT / np.sqrt([[14], [77]])),
    ],
)
def test_pieces_give_what_the_whole_gives(
    piece: int, transposed: bool, made: MergeRule, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(piecewise, "_PIECE", piece)
    stored = WEIGHT.T if transposed else WEIGHT
    change = TensorChange("w", "F32", StoredLayer(stored.shape, transposed), (made,))
    result = np.zeros_like(stored)
    for rows, columns in change.pieces():
        result[rows, columns] = change.apply(stored[rows, columns], rows, columns)
    np.testing.assert_allclose(result.T if transposed else result, expected, rtol=1e-6)


def test_a_rule_that_needs_the_whole_matrix_gets_it() -> None:
    assert separable(Rule(both), Port.BRANCH)  # type: ignore[arg-type]
    assert separable(Rule(outputs_twice), Port.OUTPUT)  # type: ignore[arg-type]
    assert not separable(Rule(normed), Port.BRANCH)  # type: ignore[arg-type]
    change = TensorChange("w", "F32", StoredLayer((4, 5)), (of(normed, Port.BRANCH, [1] * 5, [1] * 4),))
    assert list(change.pieces()) == [(slice(0, 4), slice(0, 5))]


def test_a_changed_bias_is_found_wherever_it_changes() -> None:
    layer = StoredLayer((2, 3))
    assert changes_bias(of(added, Port.BRANCH, [1, 1, 1], [0, 5]), layer, present=True)
    assert not changes_bias(of(normed, Port.BRANCH, [1, 1, 1], [1, 1]), layer, present=True)
    assert not changes_bias(of(added, Port.BRANCH, [1, 1, 1], [0, 0]), layer, present=False)
    with pytest.raises(CannotMerge, match="the layer has no bias to fold the adapter's into"):
        changes_bias(of(added, Port.BRANCH, [1, 1, 1], [0, 5]), layer, present=False)


def test_a_bias_that_depends_on_the_weight_is_refused() -> None:
    with pytest.raises(CannotMerge, match=r"the new bias depends on the layer's weight.*`onnx --mode merged` has"):
        changes_bias(of(shifted, Port.BRANCH, [1, 1, 1], [1, 1]), StoredLayer((2, 3)), present=True)


@pytest.mark.parametrize(
    "rule",
    [
        lambda weight, bias, tensors: (weight * tensors["a"][:1, None, None], bias),
        lambda weight, bias, tensors: (weight, None),
        lambda weight, bias, tensors: (weight, np.zeros((len(bias), 1))),
    ],
)
def test_a_rule_that_changes_a_shape_is_a_mistake_of_the_method(rule: Any) -> None:
    made = of(rule, Port.BRANCH, [1, 1, 1], [1, 1])
    with pytest.raises(ValueError, match=r"Rule\.merge: expected a weight \(2, 3\) and a bias of the layer's own size"):
        made.merge(WEIGHT.astype(np.float64), np.zeros(2), slice(0, 2), slice(0, 3))
