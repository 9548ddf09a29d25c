"""Makes the inputs of decoder graphs: one class for each kind of model, so that the loop is the same for all."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import numpy as np

from adapter_export.bundle.graphs import past_of
from adapter_export.runtime.generation.bound_graph import BoundGraph


class Feeds(Protocol):
    """The inputs of a decoder's graph for each run, except the cache.

    Attributes:
        afresh: Whether the last returned inputs are complete texts again, for an empty cache.
        last: The column of each row's last token in the inputs returned last; None if it is the last column.
    """

    afresh: bool
    last: np.ndarray | None

    def first(self) -> dict[str, np.ndarray]:
        """Returns the inputs of the first run, the prefill."""

    def following(self, tokens: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the inputs of the next run.

        Args:
            tokens: The tokens chosen last, [rows].
        """


class DecoderFeeds:
    """Inputs of a model without an encoder.

    Prompts are padded on the left, so that the last column contains the last token of each row.
    Positions are counted from the first token of each row: mask 0 0 1 1 1 has positions 0 0 0 1 2. Graphs that compute
    positions themselves (OPT) use the mask.

    Shapes: input_ids and position_ids [rows, new tokens], attention_mask [rows, all tokens].
    """

    last: np.ndarray | None = None

    def __init__(
        self, prompts: Sequence[Sequence[int]], pad: int, inputs: Collection[str], reread_at: int | None = None
    ) -> None:
        """Takes the prompts.

        Args:
            prompts: Token ids of each row.
            pad: The padding token.
            inputs: Names of the graph's inputs.
            reread_at: When a row grows beyond this number of tokens, its cache is no longer valid. Then all texts are
                read again, so that each row gets the same outputs as in a batch of its own. None if this never happens.
        """
        self._texts = [list(prompt) for prompt in prompts]
        self._pad, self._inputs, self._reread_at = pad, inputs, reread_at
        self.afresh = False

    def first(self) -> dict[str, np.ndarray]:
        self._lengths = np.array([len(text) for text in self._texts], np.int64)
        width = self._lengths.max()
        ids = np.array([[self._pad] * (width - len(text)) + text for text in self._texts], np.int64)
        self._mask = (np.arange(width) >= width - self._lengths[:, None]).astype(np.int64)
        return self._named(ids, np.maximum(self._mask.cumsum(axis=1) - 1, 0))

    def following(self, tokens: np.ndarray) -> dict[str, np.ndarray]:
        for text, token in zip(self._texts, tokens.tolist(), strict=True):
            text.append(token)
        positions = self._lengths[:, None]
        self.afresh = self._reread_at is not None and bool((positions == self._reread_at).any())
        if self.afresh:
            return self.first()
        self._lengths = self._lengths + 1
        self._mask = np.concatenate([self._mask, np.ones((len(tokens), 1), np.int64)], axis=1)
        return self._named(tokens[:, None], positions)

    def _named(self, ids: np.ndarray, positions: np.ndarray) -> dict[str, np.ndarray]:
        known = {"input_ids": ids, "attention_mask": self._mask, "position_ids": positions}
        return {name: value for name, value in known.items() if name in self._inputs}


class RightPaddedFeeds:
    """Inputs of a graph whose attention counts each row's tokens by the sum of its mask (GroupQueryAttention).

    Prompts are padded on the right. A new token is put behind the tokens of its row, in place of padding, so rows of
    different lengths stay right while the cache grows by one column in each run.

    Shapes: input_ids [rows, new tokens], attention_mask [rows, all tokens].
    """

    afresh = False

    def __init__(self, prompts: Sequence[Sequence[int]], pad: int) -> None:
        """Takes the prompts.

        Args:
            prompts: Token ids of each row.
            pad: The padding token.
        """
        self._prompts, self._pad = prompts, pad
        self._lengths = np.array([len(prompt) for prompt in prompts], np.int64)
        self._width = int(self._lengths.max())
        self.last: np.ndarray | None = None

    def first(self) -> dict[str, np.ndarray]:
        self.last = self._lengths - 1
        return padded_right(self._prompts, self._pad)

    def following(self, tokens: np.ndarray) -> dict[str, np.ndarray]:
        self.last = None
        self._lengths, self._width = self._lengths + 1, self._width + 1
        mask = (np.arange(self._width) < self._lengths[:, None]).astype(np.int64)
        return {"input_ids": tokens[:, None], "attention_mask": mask}


class CrossFeeds:
    """Inputs of an encoder-decoder. Its encoder reads the prompts once; its decoder reads only its own tokens.

    Keys and values of the encoder's states are passed from graph to graph without a copy. Texts are padded on the
    right, because the encoder counts positions from its first column.

    Shapes: input_ids [rows, new tokens].
    """

    afresh = False
    last: np.ndarray | None = None

    def __init__(
        self,
        encoder: BoundGraph,
        decoder: BoundGraph,
        encoded: Mapping[str, np.ndarray],
        states: Collection[str],
        begin: Sequence[int],
        inputs: Collection[str],
    ) -> None:
        """Takes the graphs and the encoder's inputs.

        Args:
            encoder: The encoder's graph.
            decoder: The decoder's graph.
            encoded: The encoder's inputs by name.
            states: Names of the encoder's outputs that the decoder takes (`present.N.encoder.key`, ...).
            begin: Tokens that all rows begin with.
            inputs: Names of the decoder's inputs.
        """
        self._encoder, self._decoder = encoder, decoder
        self._encoded, self._states, self._begin, self._inputs = encoded, list(states), list(begin), inputs
        self._rows = len(next(iter(encoded.values())))

    def first(self) -> dict[str, np.ndarray]:
        self._encoder.feed(self._encoded)
        for name, value in self._encoder.run(self._states).items():
            self._decoder.bind(past_of(name), value)
        known = {
            "input_ids": np.array([self._begin] * self._rows, np.int64),
            "encoder_attention_mask": self._encoded.get("attention_mask"),
        }
        return {name: value for name, value in known.items() if name in self._inputs and value is not None}

    def following(self, tokens: np.ndarray) -> dict[str, np.ndarray]:
        # The mask stays bound.
        return {"input_ids": tokens[:, None]}


def padded_right(prompts: Sequence[Sequence[int]], pad: int) -> dict[str, np.ndarray]:
    """Returns input_ids and attention_mask, both int64 [rows, longest prompt], padded on the right with `pad`."""
    width = max(len(prompt) for prompt in prompts)
    ids = np.array([list(prompt) + [pad] * (width - len(prompt)) for prompt in prompts], np.int64)
    lengths = np.array([len(prompt) for prompt in prompts])
    return {"input_ids": ids, "attention_mask": (np.arange(width) < lengths[:, None]).astype(np.int64)}
