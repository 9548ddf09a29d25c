"""How a tensor of a bundle differs from that of the checkpoint, in words."""

from __future__ import annotations

import numpy as np
import pytest

from adapter_export.parity.localizing.stored_tensors import difference

RIGHT = np.random.default_rng(0).standard_normal((3, 4))


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (RIGHT.astype(np.float32), None),
        (RIGHT.astype(np.float16), None),
        (1.01 * RIGHT, "is 1.01 times the right one"),
        (-RIGHT, "is -1 times the right one"),
        (RIGHT[::-1], "has its rows in another order"),
        (RIGHT[:, ::-1], "has other values"),
        (RIGHT + 1, "has other values"),
    ],
)
def test_difference(found: np.ndarray, words: str | None) -> None:
    assert difference(np.ascontiguousarray(found), RIGHT) == words


def test_a_transposed_matrix() -> None:
    square = RIGHT[:, :3]
    assert difference(np.ascontiguousarray(square.T), square) == "is transposed"
