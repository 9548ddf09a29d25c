"""What the graphs of each kind of model are fed: one class a kind, so that the loop is the same for all."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np


class Feeds(Protocol):
    """The inputs of a decoder's graph, run by run; the cache is not among them."""

    def first(self) -> dict[str, np.ndarray]:
        """Inputs of the first run, the prefill."""

    def following(self, tokens: np.ndarray) -> dict[str, np.ndarray]:
        """Inputs of the next run, after `tokens` [rows] were chosen."""


class DecoderFeeds:
    """Prompts of a decoder alone, padded on the left, so that the last column holds every row's last token.

    Positions are counted within each row, whatever stands before it: mask 0 0 1 1 1 has positions 0 0 0 1 2. Graphs
    that compute positions themselves (OPT) do it from the mask. Shapes: all [rows, new tokens], the mask [rows, all].
    """

    def __init__(self, prompts: Sequence[Sequence[int]], pad: int, inputs: Collection[str]) -> None:
        """inputs: names that the graph takes."""
        width = max(len(prompt) for prompt in prompts)
        self._inputs = inputs
        self._lengths = np.array([len(prompt) for prompt in prompts], np.int64)
        self._ids = np.array([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], np.int64)
        self._mask = (np.arange(width) >= width - self._lengths[:, None]).astype(np.int64)

    def first(self) -> dict[str, np.ndarray]:
        return self._named(self._ids, np.maximum(self._mask.cumsum(axis=1) - 1, 0))

    def following(self, tokens: np.ndarray) -> dict[str, np.ndarray]:
        positions = self._lengths[:, None]
        self._lengths = self._lengths + 1
        self._mask = np.concatenate([self._mask, np.ones((len(tokens), 1), np.int64)], axis=1)
        return self._named(tokens[:, None], positions)

    def _named(self, ids: np.ndarray, positions: np.ndarray) -> dict[str, np.ndarray]:
        known = {"input_ids": ids, "attention_mask": self._mask, "position_ids": positions}
        return {name: value for name, value in known.items() if name in self._inputs}
