"""Several adapters at once, each with a strength: how the tensors of one operator combine.

A strength s multiplies what an adapter does: 0 is no adapter, 1 the adapter as it was trained. Which arithmetic does
that depends on the tensor, so every tensor has a rule. A tensor without a rule cannot be composed, as the tensors of an
operator that is not linear in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from adapter_export.choices import Choice
from adapter_export.errors import InputError


class CompositionRule(Choice):
    """How one tensor t of several adapters, with strengths s, becomes the tensor of their composition.

    JOINED         the tensors one after the other along their free dim, whatever the strengths.
    JOINED_SCALED  the same with s * t in place of t.
    ADDED          identity + the sum of s * (t - identity).
    MULTIPLIED     the product of t ** s.
    """

    JOINED = "joined"
    JOINED_SCALED = "joined-scaled"
    ADDED = "added"
    MULTIPLIED = "multiplied"

    @property
    def joins(self) -> bool:
        """Whether the tensors are put one after the other. They have one free dim then, and otherwise none."""
        return self in (CompositionRule.JOINED, CompositionRule.JOINED_SCALED)


def strengthened(tensor: Any, rule: CompositionRule, identity: float, strength: float) -> Any:
    """Returns the tensor with which an adapter has another strength.

    Args:
        tensor: An array, or a PyTorch tensor.
        rule: The rule of the tensor.
        identity: The value of the tensor without an adapter.
        strength: The strength.

    Raises:
        InputError: The tensor has no such power.
    """
    if strength == 1:
        return tensor
    match rule:
        case CompositionRule.JOINED:
            return tensor
        case CompositionRule.JOINED_SCALED:
            return tensor * strength
        case CompositionRule.ADDED:
            return identity + (tensor - identity) * strength
        case CompositionRule.MULTIPLIED:
            if strength != int(strength) and (tensor < 0).any():
                raise InputError(f"strength {strength:g}: the tensor has negative values, of which there are no powers")
            return tensor**strength


def composed(
    tensors: Sequence[np.ndarray],
    strengths: Sequence[float],
    rule: CompositionRule,
    dims: Sequence[int | str],
    identity: float,
) -> np.ndarray:
    """Returns one tensor of a composition, computed in float64.

    Args:
        tensors: The tensor of each adapter, of one dtype; at least one.
        strengths: The strength of each adapter.
        rule: The rule of the tensor.
        dims: Its dims: numbers, and a name for the free dim.
        identity: The value of the tensor without an adapter.

    Raises:
        InputError: A tensor has no such power, or a value does not fit in the dtype.
    """
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # infinite values are refused below
        parts = [
            strengthened(tensor.astype(np.float64), rule, identity, strength)
            for tensor, strength in zip(tensors, strengths, strict=True)
        ]
        if rule.joins:
            (axis,) = (axis for axis, dim in enumerate(dims) if isinstance(dim, str))
            exact = np.concatenate(parts, axis)
        elif rule is CompositionRule.ADDED:
            exact = identity + np.sum([part - identity for part in parts], axis=0)
        else:
            exact = np.prod(parts, axis=0)
        rounded: np.ndarray = exact.astype(tensors[0].dtype)
    if not np.isfinite(rounded).all():
        raise InputError(f"composition: expected values within {rounded.dtype}, found larger ones")
    return rounded
