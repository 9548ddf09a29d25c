"""What PyTorch computes for one case: R and T of each adapter, whether it runs now or ran when a record was made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Arrays = Mapping[str, np.ndarray]
# R, and T in one or more roundings, of one state: arrays by output.
StateReference = tuple[Arrays, Sequence[Arrays]]


@dataclass(frozen=True)
class Expected:
    """The outputs of PyTorch for one case, with one adapter or with none.

    Attributes:
        adapter: Name of the adapter; NO_ADAPTER for the base model.
        on: Outputs with the adapter; of the base model for NO_ADAPTER.
        off: Outputs without the adapter's body; None for NO_ADAPTER.
    """

    adapter: str
    on: StateReference
    off: StateReference | None = None

    def with_roundings(self, count: int) -> Expected:
        """Returns the same outputs with at most `count` roundings of T."""
        off = None if self.off is None else (self.off[0], self.off[1][:count])
        return Expected(self.adapter, (self.on[0], self.on[1][:count]), off)


@dataclass(frozen=True)
class ExpectedTokens:
    """What PyTorch computes for generated texts, with one adapter or with none.

    Attributes:
        expected: R and T of the logits [rows, new, columns] from which the tokens were chosen, by the name `logits`.
        tokens: The tokens [rows, new] that were written when these logits were computed.
        choice: The tokens that R would choose, by the rules of the bundle, after the tokens before them.
        margin: For each token, how far the two largest scores of R are apart.
        scores: R by the rules of the bundle, in the columns of the logits.
    """

    expected: Expected
    tokens: np.ndarray
    choice: np.ndarray
    margin: np.ndarray
    scores: np.ndarray


# Is called with what PyTorch computed for a case, before ONNX Runtime runs it.
Observer = Callable[[Expected | ExpectedTokens], None]
