"""Logarithms of the probabilities of tokens."""

from __future__ import annotations

import numpy as np


def log_probabilities(
    logits: np.ndarray, token: int, top: int | None
) -> tuple[float | None, tuple[tuple[int, float], ...]]:
    """Returns log softmax(logits) of a token, and tokens with the largest ones, largest first.

    Args:
        logits: Logits [vocabulary].
        token: The token.
        top: Number of tokens in the second result; None for no numbers at all.
    """
    if top is None:
        return None, ()
    wide = logits.astype(np.float64)
    largest = wide.max()
    found = wide - (largest + np.log(np.exp(wide - largest).sum()))
    best = np.argpartition(-found, min(top, found.size) - 1)[:top] if top else np.zeros(0, np.int64)
    ranked = sorted(((int(index), float(found[index])) for index in best), key=lambda pair: (-pair[1], pair[0]))
    return float(found[token]), tuple(ranked)
