"""Layers that keep values in the range of float16, as they do it in a graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@contextmanager
def overflow_clamped() -> Iterator[None]:
    """Inside the block, layers that clamp values of float16 if one is infinite (BART, Marian) clamp them always.

    Whether a value is infinite is not known in a trace, and it would let a row depend on the other rows of its batch.
    Clamping always changes finite values only if they are above 64,512, which the layer then uses in their place.
    """
    import torch

    known = torch.isfinite

    def isfinite(value: torch.Tensor) -> torch.Tensor | _Unknown:
        return _Unknown() if value.dtype is torch.float16 else known(value)

    torch.isfinite = isfinite  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.isfinite = known


class _Unknown:
    """Which values are finite, where that is not known."""

    def all(self) -> bool:
        return False
