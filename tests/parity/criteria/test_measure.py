"""The numbers of points 1 to 4, for arrays that are small enough to check by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from adapter_export.parity.criteria.error_counts import ErrorCounts
from adapter_export.parity.criteria.measure import (
    ClassAgreement,
    Deviation,
    ErrorPair,
    Measurement,
    OutputArrays,
    OutputSet,
    class_agreement,
    measure,
)

R_OFF = np.array([[1.0, 2.0], [3.0, 4.0]])
R_ON = np.array([[2.0, 1.0], [3.0, 2.0]])


def float32(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32)


def output_set(actual: np.ndarray, target: np.ndarray | None = None, kept: np.ndarray | None = None) -> OutputSet:
    on = OutputArrays(R_ON, (float32(R_ON) if target is None else target,), actual)
    return OutputSet(on, OutputArrays(R_OFF, (float32(R_OFF),), float32(R_OFF)), kept, "float32")


def test_numbers_on_paper() -> None:
    found = measure(
        output_set(float32(R_ON + np.array([[0.5, 0], [0, -0.25]])), float32(R_ON + np.array([[0, 0.125], [0, 0]])))
    )
    assert found.fails == found.doubts == ()
    assert found.on == ErrorPair(
        actual=Deviation(0.5, pytest.approx(0.49925), 0.1875),
        target=Deviation(0.125, pytest.approx(0.124625), 0.03125),
        squares=4 + 1 + 9 + 4,
        count=4,
        actual_counts=ErrorCounts(-2, (1, 1), 2),
        target_counts=ErrorCounts(-3, (1,), 3),
    )
    assert found.off == ErrorPair(Deviation(0, 0, 0), Deviation(0, 0, 0), 30, 4)
    assert found.change == 2
    # O_on - O_off = (1.5, -1, 0, -2.25), R_on - R_off = (1, -1, 0, -2)
    assert found.cosine == pytest.approx((1.5 + 1 + 4.5) / np.sqrt((2.25 + 1 + 5.0625) * 6))


def test_of_several_ways_to_round_the_furthest_counts() -> None:
    targets = tuple(float32(R_ON + np.array([[0, error], [0, 0]])) for error in (0.125, -0.5, 0.25))
    found = measure(OutputSet(OutputArrays(R_ON, targets, float32(R_ON)), None, None, "float32"))
    assert found.on is not None
    assert found.on.target.max == 0.5
    broken = (*targets, float32(R_ON * np.nan))
    assert measure(OutputSet(OutputArrays(R_ON, broken, float32(R_ON)), None, None, "float32")).doubts


def test_padded_positions_do_not_count() -> None:
    wrong = float32(R_ON + np.array([[0, 0], [100, np.nan]]))
    found = measure(output_set(wrong, kept=np.array([True, False])))
    assert found.fails == ()
    assert found.on is not None
    assert found.on.actual.max == 0
    assert found.on.count == 2
    assert measure(output_set(wrong)).fails == ("1 of 4 values are not finite",)


def test_without_an_off_state_the_target_stands_in() -> None:
    target_off = float32(R_OFF + np.array([[0, 1], [0, 0]]))
    on = OutputArrays(R_ON, (float32(R_ON),), float32(R_ON))
    found = measure(OutputSet(on, OutputArrays(R_OFF, (target_off,), None), None, "float32"))
    assert found.off is None
    # O_on - T_off = (1, -2, 0, -2), R_on - R_off = (1, -1, 0, -2)
    assert found.cosine == pytest.approx(7 / np.sqrt(9 * 6))


def test_no_adapter_has_no_change() -> None:
    found = measure(OutputSet(OutputArrays(R_OFF, (float32(R_OFF),), float32(R_OFF)), None, None, "float32"))
    assert found.on is not None
    assert (found.off, found.change, found.cosine) == (None, None, None)


def test_a_graph_that_ignores_the_adapter_has_no_cosine() -> None:
    assert measure(output_set(float32(R_OFF))).cosine is None


@pytest.mark.parametrize(
    ("actual", "reason"),
    [
        (float32(R_ON)[:1], "shape: expected [2, 2], found [1, 2]"),
        (float32(R_ON)[None], "shape: expected [2, 2], found [1, 2, 2]"),
        (R_ON, "dtype: expected float32, found float64"),
        (float32(R_ON * np.inf), "4 of 4 values are not finite"),
        (float32(R_ON * 0), "the output is all zero"),
        (float32(R_ON * 0 + 7), "the output is constant: 7"),
    ],
)
def test_a_wrong_form_is_a_failure_and_gives_no_numbers(actual: np.ndarray, reason: str) -> None:
    assert measure(output_set(actual)) == Measurement(fails=(reason,))
    off = OutputArrays(R_ON, (float32(R_ON),), actual)
    found = measure(OutputSet(OutputArrays(R_ON, (float32(R_ON),), float32(R_ON)), off, None, "float32"))
    assert found == Measurement(fails=(f"without the adapter: {reason}",))


@pytest.mark.parametrize(
    ("reference", "doubt"),
    [
        (np.zeros((2, 2)), "the model's own output is constant: it would not show a mistake"),
        (np.full((2, 2), 5.0), "the model's own output is constant: it would not show a mistake"),
        (np.array([[1, np.nan]]), "PyTorch itself gives NaN or infinity: nothing to compare with"),
        (np.zeros((2, 0)), "the output is empty: nothing to compare"),
    ],
)
def test_a_reference_that_shows_nothing_is_a_doubt(reference: np.ndarray, doubt: str) -> None:
    for actual in (np.arange(reference.size).reshape(reference.shape) + 1, np.zeros_like(reference)):
        found = measure(
            OutputSet(OutputArrays(reference, (float32(reference),), float32(actual)), None, None, "float32")
        )
        assert found == Measurement(doubts=(doubt,))


def test_one_number_may_be_constant() -> None:
    one = np.array([[0.5]])
    assert measure(OutputSet(OutputArrays(one, (float32(one),), float32(one)), None, None, "float32")).fails == ()
    found = measure(OutputSet(OutputArrays(one, (float32(one),), float32(0 * one)), None, None, "float32"))
    assert found.fails == ("the output is all zero",)


def test_overflow_at_the_target_dtype_is_a_doubt() -> None:
    found = measure(output_set(float32(R_ON), target=float32(R_ON * np.inf)))
    assert found.doubts == ("PyTorch itself gives NaN or infinity: nothing to compare with",)


def test_choices_among_classes() -> None:
    reference = np.log(np.array([[0.5, 0.5], [0.8, 0.2], [0.25, 0.75]]))
    actual = np.log(np.array([[0.25, 0.75], [0.5, 0.5], [0.75, 0.25]]))
    # 0.8 : 0.2 and 0.75 : 0.25 are clear, 1 : 1 is not. Only the first clear position keeps its class, because the
    # first of two equal logits counts as the largest.
    divergence = np.mean(
        [
            0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75),
            0.8 * np.log(0.8 / 0.5) + 0.2 * np.log(0.2 / 0.5),
            0.25 * np.log(0.25 / 0.75) + 0.75 * np.log(0.75 / 0.25),
        ]
    )
    found = class_agreement(reference + 7, [reference], actual - 3)
    assert found == ClassAgreement(pytest.approx(divergence), positions=3, clear=2, agreed=1, wrong=1)
    # If one rounding of T predicts another class as well, the position does not count against O.
    assert class_agreement(reference + 7, [reference, actual], actual - 3) == replace(found, wrong=0)
