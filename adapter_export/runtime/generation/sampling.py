"""Chooses the next token from the logits of a row: greedily, or by a draw with temperature, top-k and top-p.

Order and meaning are those of transformers: first the rules of generation_config.json, then temperature, top-k, top-p.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adapter_export.errors import InputError
from adapter_export.runtime.generation.processors import Processor, processed
from adapter_export.runtime.generation.settings import GenerationSettings


class RowChooser:
    """Chooses the tokens of one row. It has its own random generator, and keeps the tokens of the row."""

    def __init__(
        self,
        row: int,
        settings: GenerationSettings,
        tokens: Sequence[int],
        generator: np.random.Generator,
        processors: Sequence[Processor] = (),
    ) -> None:
        """Prepares the choice.

        Args:
            row: Number of the row, for messages.
            settings: What the caller asks for.
            tokens: Tokens of the row before the first new one.
            generator: Random numbers of this row.
            processors: Functions that change the logits first.
        """
        self._row, self._settings, self._generator = row, settings, generator
        self._tokens, self._processors = list(tokens), processors

    def __call__(self, logits: np.ndarray) -> int:
        """Returns the next token.

        Args:
            logits: Logits [vocabulary] of any float dtype.

        Raises:
            InputError: No logit is finite, or the rules exclude all tokens.
        """
        settings = self._settings
        scores = processed(self._processors, self._tokens, logits)
        if not np.isfinite(largest := scores.max()):
            if np.isfinite(logits.max()):
                raise InputError(f"prompt {self._row}: generation_config.json leaves no token to choose from")
            raise InputError(f"prompt {self._row}: the model's logits hold {largest}: there is no next token")
        if settings.temperature == 0:
            token = int(scores.argmax())
        else:
            token = draw(warped(scores, settings.temperature, settings.top_k, settings.top_p), self._generator)
        self._tokens.append(token)
        return token


def warped(scores: np.ndarray, temperature: float, top_k: int | None, top_p: float | None) -> np.ndarray:
    """Returns (scores - max) / temperature, with -inf for excluded tokens.

    Args:
        scores: Scores [n] of any float dtype.
        temperature: A number above 0.
        top_k: Keep the k largest scores, and all that equal the smallest of these; None to keep all.
        top_p: Keep the most probable tokens whose probabilities add up to at least top_p (arXiv:1904.09751), and at
            least one; None to keep all.

    Returns:
        Scores [n], float64.
    """
    shifted = scores.astype(np.float64)
    # The largest score is subtracted first. Division by a tiny temperature then gives -inf, never inf - inf.
    with np.errstate(over="ignore"):
        result: np.ndarray = (shifted - shifted.max()) / temperature
    if top_k is not None and top_k < result.size:
        result[result < np.partition(result, -top_k)[-top_k]] = -np.inf
    if top_p is not None and top_p < 1:
        order = np.argsort(result, kind="stable")
        probability = np.exp(result[order])
        out = np.cumsum(probability / probability.sum()) <= 1 - top_p
        out[-1] = False
        result[order[out]] = -np.inf
    return result


def draw(scores: np.ndarray, generator: np.random.Generator) -> int:
    """Returns a token drawn with probability softmax(scores), by one uniform random number."""
    cumulative = np.cumsum(np.exp(scores - scores.max()))
    # A random number that rounds up to the sum itself must not select an excluded token at the end of the vocabulary.
    last = int(np.flatnonzero(np.isfinite(scores))[-1])
    return min(int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right")), last)
