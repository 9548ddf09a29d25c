"""The next token from a row of logits: greedy, or a random draw from what temperature, top-k and top-p leave.

Order and meaning are those of transformers': the rules of generation_config.json, then temperature, top-k, top-p.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adapter_export.errors import InputError
from adapter_export.runtime.generation.processors import Processor, processed
from adapter_export.runtime.generation.settings import GenerationSettings


class RowChooser:
    """Chooses the tokens of one row; has its own random numbers, and remembers what the row holds."""

    def __init__(
        self,
        row: int,
        settings: GenerationSettings,
        tokens: Sequence[int],
        generator: np.random.Generator,
        processors: Sequence[Processor] = (),
    ) -> None:
        """tokens: the row's so far. processors: what changes its logits first."""
        self._row, self._settings, self._generator = row, settings, generator
        self._tokens, self._processors = list(tokens), processors

    def __call__(self, logits: np.ndarray) -> int:
        """The token for logits [vocabulary], of any float type. Raises InputError where none is the largest."""
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
    """(scores - max) / temperature in float64, -inf where a token is out: scores [n] -> [n].

    top_k: keeps the k best, and all that equal the last of them. top_p: keeps the most probable tokens whose
    probabilities add up to at least top_p (arXiv:1904.09751); at least one.
    """
    shifted = scores.astype(np.float64)
    # Shifted first: dividing by a tiny temperature then gives -inf, never inf - inf.
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
    """A token drawn with probability softmax(scores), by one uniform number."""
    cumulative = np.cumsum(np.exp(scores - scores.max()))
    # The last token may be out: a number that rounds up to the sum itself must not land behind those that are in.
    last = int(np.flatnonzero(np.isfinite(scores))[-1])
    return min(int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right")), last)
