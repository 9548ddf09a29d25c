"""Runs a decoder's graph with its cache of keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np

from adapter_export.bundle.graphs import LOGITS_TO_KEEP, is_past, present_of
from adapter_export.bundle.manifest import GraphInfo, TensorInfo
from adapter_export.bundle.ort_values import new_ort_value, ort_value
from adapter_export.providers import Provider
from adapter_export.runtime.generation.bound_graph import BoundGraph

if TYPE_CHECKING:
    import onnxruntime as ort


class Decoder(Protocol):
    """A decoder's graph with a cache, which starts empty and grows by the tokens of each run."""

    def forget(self) -> None:
        """Empties the cache."""

    def run(self, feeds: Mapping[str, np.ndarray], last: np.ndarray | None = None) -> np.ndarray:
        """Runs the graph, and returns the logits of each row's last token, [rows, vocabulary].

        Args:
            feeds: The inputs by name.
            last: The column of each row's last token; None if it is the last column.
        """


class CachedDecoder:
    """A decoder's graph with its cache: the output `present.X` of a run is the input `past_key_values.X` of the next.

    The cache starts empty. Inputs `past_key_values.X` without an output `present.X` do not grow. These are the keys and
    values of the encoder's states in an encoder-decoder. The code that runs the encoder binds them, once.
    """

    def __init__(self, graph: BoundGraph, info: GraphInfo, rows: int) -> None:
        """Binds an empty cache.

        Args:
            graph: The decoder's graph.
            info: Its entry in the manifest.
            rows: Number of rows of the batch.
        """
        self._graph, self._info, self._rows = graph, info, rows
        self._grown = growing(info)
        self._keep = 0
        self.forget()

    def forget(self) -> None:
        """Empties the cache."""
        self._graph.feed(
            {name: _empty(self._info.inputs[name], self._rows, self._graph.device) for name in self._grown.values()}
        )

    def run(self, feeds: Mapping[str, np.ndarray], last: np.ndarray | None = None) -> np.ndarray:
        """Runs the graph, and returns the logits of each row's last token, as `Decoder.run`."""
        tokens = feeds["input_ids"].shape[1]
        return _of_last(self._run(feeds, _columns(tokens, last)), last, tokens)

    def logits(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        """Runs the graph, and returns the logits of all tokens fed, [rows, tokens, vocabulary].

        ONNX Runtime owns their memory. Copy them to keep them.
        """
        return self._run(feeds, feeds["input_ids"].shape[1])

    def _run(self, feeds: Mapping[str, np.ndarray], keep: int) -> np.ndarray:
        """Runs the graph, and returns the logits of the last `keep` tokens; of all, if the graph cannot choose."""
        if keep != self._keep:
            self._graph.feed(keeping(self._info, keep))
            self._keep = keep
        self._graph.feed(feeds)
        outputs = self._graph.run(["logits", *self._grown], host=("logits",))
        self._graph.feed({past: outputs[present] for present, past in self._grown.items()})
        logits: np.ndarray = outputs["logits"].numpy()
        return logits


class SharedCacheDecoder:
    """A decoder's graph that writes new keys and values into the memory from which it reads the old ones.

    GroupQueryAttention does this if the input `past_key_values.X` and the output `present.X` are one value, with room
    for all tokens of the text; the mask tells how many it holds. So no run copies the cache, and nothing is bound anew
    but the tokens and the mask. Only on the CPU, where memory that is not written yet costs nothing.

    Shapes: past_key_values.X [rows, heads, capacity, head size].
    """

    def __init__(self, graph: BoundGraph, info: GraphInfo, rows: int, capacity: int) -> None:
        """Makes the cache.

        Args:
            graph: The decoder's graph, on the CPU.
            info: Its entry in the manifest.
            rows: Number of rows of the batch.
            capacity: Largest number of tokens of a row, padding included.
        """
        self._graph, self._info = graph, info
        self._cache: dict[str, ort.OrtValue] = {}
        fed: dict[str, ort.OrtValue] = {}
        for present, past in growing(info).items():
            place = info.inputs[past]
            shape = [rows, *(dim if isinstance(dim, int) else capacity for dim in place.shape[1:])]
            fed[past] = self._cache[present] = ort_value(np.zeros(shape, place.dtype.numpy))
        graph.feed(fed)
        # The logits of one token of each row, as every run but the first gives them.
        logits = info.outputs["logits"]
        self._step = np.zeros((rows, 1, int(logits.shape[-1])), logits.dtype.numpy)
        self._outputs = {"logits": ort_value(self._step), **self._cache}

    def forget(self) -> None:
        """Empties the cache: what it holds is told by the mask."""

    def run(self, feeds: Mapping[str, np.ndarray], last: np.ndarray | None = None) -> np.ndarray:
        """Runs the graph, and returns the logits of each row's last token, as `Decoder.run`."""
        self._graph.feed(feeds)
        rows, tokens = feeds["input_ids"].shape
        if tokens == 1:
            self._graph.run_into(self._outputs)
            return _of_last(self._step, last, tokens)
        keep = _columns(tokens, last) if self._info.logits_to_keep else tokens
        self._graph.feed(keeping(self._info, keep))
        logits = np.zeros((rows, keep, self._step.shape[-1]), self._step.dtype)
        self._graph.run_into({"logits": ort_value(logits), **self._cache})
        return _of_last(logits, last, tokens)


def keeping(info: GraphInfo, count: int) -> dict[str, np.ndarray]:
    """Returns the feeds with which a decoder computes the logits of the last tokens only.

    Args:
        info: The decoder's entry in the manifest.
        count: Number of these tokens.

    Returns:
        Arrays by name; none if the graph always computes the logits of all tokens.
    """
    return {LOGITS_TO_KEEP: np.array([count], np.int64)} if info.logits_to_keep else {}


def growing(info: GraphInfo) -> dict[str, str]:
    """Returns the inputs of the cache that grow, by the outputs that continue them."""
    return {present_of(name): name for name in info.inputs if is_past(name) and present_of(name) in info.outputs}


def _columns(tokens: int, last: np.ndarray | None) -> int:
    """Returns how many of the last columns hold the last tokens of all rows."""
    return 1 if last is None else tokens - int(last.min())


def _of_last(logits: np.ndarray, last: np.ndarray | None, tokens: int) -> np.ndarray:
    """Returns a copy of the logits of each row's last token.

    Args:
        logits: Logits of the last columns, or of all.
        last: The column of each row's last token; None if it is the last column.
        tokens: Number of all columns.
    """
    if last is None:
        found: np.ndarray = logits[:, -1].copy()
    else:
        found = logits[np.arange(len(logits)), last - (tokens - logits.shape[1])]
    return found


def _empty(info: TensorInfo, rows: int, device: Provider) -> ort.OrtValue:
    """Returns a cache without tokens. The first dim is the batch; the other named dim is the length, here 0."""
    shape = [rows, *(dim if isinstance(dim, int) else 0 for dim in info.shape[1:])]
    return new_ort_value(info.dtype, shape, device)
