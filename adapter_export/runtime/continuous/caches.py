"""The keys and values of rows that decode together: rows join, run, and leave."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from adapter_export.bundle.manifest import GraphInfo, TensorInfo
from adapter_export.bundle.ort_values import new_ort_value, ort_value
from adapter_export.runtime.generation.bound_graph import BoundGraph
from adapter_export.runtime.generation.cache import growing, keeping

if TYPE_CHECKING:
    import onnxruntime as ort

# Keys and values of one row by the names of the graph's inputs, [1, heads, tokens, head size] each, without padding.
RowCache = dict[str, np.ndarray]


class BatchCache(Protocol):
    """The cache of a batch. It begins without rows.

    Attributes:
        lengths: Number of tokens of each row, [rows].
    """

    lengths: np.ndarray

    def change(self, graph: BoundGraph, keep: Sequence[int], joining: Sequence[RowCache]) -> None:
        """Keeps some rows, in this order, and adds others behind them.

        Args:
            graph: The graph that runs from now on, with the adapters of these rows bound to it.
            keep: Numbers of the rows to keep.
            joining: The caches of new rows; empty dictionaries for rows without tokens.
        """

    def run(self, ids: np.ndarray) -> np.ndarray:
        """Feeds tokens to all rows, and returns the logits of each row's last one, [rows, vocabulary].

        Args:
            ids: Token ids, int64 [rows, tokens].
        """

    def row(self, number: int) -> RowCache:
        """Returns a copy of the cache of one row."""


def bytes_per_token(info: GraphInfo) -> int:
    """Returns how many bytes of a cache one token takes.

    Args:
        info: The decoder's entry in the manifest.
    """
    return sum(_bytes(info.inputs[past]) for past in growing(info).values())


class ConcatenatedCache:
    """The cache of a graph whose output is the longer cache: `present.X` of a run is `past_key_values.X` of the next.

    Rows are padded on the left, so that all get their new token in the same column. The mask hides the padding, and
    positions are counted from the first token of a row.
    """

    def __init__(self, info: GraphInfo) -> None:
        """Makes a cache without rows.

        Args:
            info: The decoder's entry in the manifest.
        """
        self._info, self._grown = info, growing(info)
        self._values: dict[str, ort.OrtValue] = {}
        self.lengths = np.zeros(0, np.int64)
        self._width = 0

    def change(self, graph: BoundGraph, keep: Sequence[int], joining: Sequence[RowCache]) -> None:
        new = [tokens_of(cache) for cache in joining]
        lengths = np.array([*self.lengths[list(keep)], *new], np.int64)
        width = int(lengths.max(initial=0))
        for past in self._grown.values():
            place = self._info.inputs[past]
            array = _no_tokens(place, len(lengths), width)
            if keep:
                shared = min(width, self._width)
                array[: len(keep), ..., width - shared :, :] = self._values[past].numpy()[
                    list(keep), ..., self._width - shared :, :
                ]
            for row, (cache, length) in enumerate(zip(joining, new, strict=True), len(keep)):
                if length:
                    array[row, ..., width - length :, :] = cache[past][0]
            self._values[past] = _on_device(array, graph)
        self.lengths, self._width, self._graph = lengths, width, graph
        graph.feed({**self._values, **keeping(self._info, 1)})

    def run(self, ids: np.ndarray) -> np.ndarray:
        tokens = ids.shape[1]
        before = np.arange(self._width) >= self._width - self.lengths[:, None]
        mask = np.concatenate([before, np.ones(ids.shape, bool)], axis=1)
        feeds = {
            "input_ids": ids,
            "attention_mask": mask.astype(np.int64),
            "position_ids": self.lengths[:, None] + np.arange(tokens),
        }
        self._graph.feed(_named(feeds, self._info.inputs))
        outputs = self._graph.run(["logits", *self._grown], host=("logits",))
        self._values = {past: outputs[present] for present, past in self._grown.items()}
        self._graph.feed(self._values)
        self.lengths, self._width = self.lengths + tokens, self._width + tokens
        logits: np.ndarray = outputs["logits"].numpy()[:, -1]
        return logits

    def row(self, number: int) -> RowCache:
        begin = self._width - int(self.lengths[number])
        return {past: value.numpy()[number : number + 1, ..., begin:, :] for past, value in self._values.items()}


class SharedCache:
    """The cache of a graph that writes new keys and values into the memory of the old ones (GroupQueryAttention).

    The tokens of a row are at the left of its memory, and the sum of its mask tells how many there are. Such graphs
    continue all rows by one token, or begin one row with all of its tokens. On the CPU only.
    """

    def __init__(self, info: GraphInfo) -> None:
        """Makes a cache without rows.

        Args:
            info: The decoder's entry in the manifest.
        """
        self._info, self._grown = info, growing(info)
        self._arrays: dict[str, np.ndarray] = {}
        self.lengths = np.zeros(0, np.int64)
        self._room = 0

    def change(self, graph: BoundGraph, keep: Sequence[int], joining: Sequence[RowCache]) -> None:
        new = [tokens_of(cache) for cache in joining]
        lengths = np.array([*self.lengths[list(keep)], *new], np.int64)
        self._graph = graph
        graph.feed(keeping(self._info, 1))
        self._make_room(list(keep), len(lengths), int(lengths.max(initial=0)) + 1)
        for row, (cache, length) in enumerate(zip(joining, new, strict=True), len(keep)):
            for past, array in self._arrays.items():
                if length:
                    array[row, ..., :length, :] = cache[past][0]
        self.lengths = lengths

    def run(self, ids: np.ndarray) -> np.ndarray:
        after = self.lengths + ids.shape[1]
        if after.max() > self._room:
            self._make_room(list(range(len(after))), len(after), int(after.max()))
        mask = np.arange(int(after.max())) < after[:, None]
        feeds = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
        self._graph.feed(_named(feeds, self._info.inputs))
        logits = self._info.outputs["logits"]
        rows, tokens = ids.shape
        kept = 1 if self._info.logits_to_keep else tokens
        found = np.zeros((rows, kept, int(logits.shape[-1])), logits.dtype.numpy)
        self._graph.run_into({"logits": ort_value(found), **self._presents})
        self.lengths = after
        last: np.ndarray = found[:, -1]
        return last

    def row(self, number: int) -> RowCache:
        length = int(self.lengths[number])
        return {past: array[number : number + 1, ..., :length, :].copy() for past, array in self._arrays.items()}

    def _make_room(self, keep: list[int], rows: int, tokens: int) -> None:
        """Makes memory for more rows or tokens than before, with twice the tokens that are needed now."""
        room = self._room if tokens <= self._room else 2 * tokens
        longest = int(self.lengths[keep].max(initial=0))
        arrays = {}
        for past in self._grown.values():
            array = _no_tokens(self._info.inputs[past], rows, room)
            if keep:
                array[: len(keep), ..., :longest, :] = self._arrays[past][keep, ..., :longest, :]
            arrays[past] = array
        self._arrays, self._room = arrays, room
        values = {past: ort_value(array) for past, array in arrays.items()}
        self._presents = {present: values[past] for present, past in self._grown.items()}
        self._graph.feed(values)


def tokens_of(cache: RowCache) -> int:
    """Returns the number of tokens of a row's cache."""
    return next((array.shape[-2] for array in cache.values()), 0)


def _named(feeds: Mapping[str, np.ndarray], inputs: Collection[str]) -> dict[str, np.ndarray]:
    return {name: value for name, value in feeds.items() if name in inputs}


def _no_tokens(place: TensorInfo, rows: int, width: int) -> np.ndarray:
    """Returns zeros for a batch. The first dim is the batch; the other named dim is the length."""
    shape = [rows, *(dim if isinstance(dim, int) else width for dim in place.shape[1:])]
    return np.zeros(shape, place.dtype.numpy)


def _bytes(place: TensorInfo) -> int:
    return _no_tokens(place, 1, 1).nbytes


def _on_device(array: np.ndarray, graph: BoundGraph) -> ort.OrtValue:
    value = ort_value(array)
    if graph.device.on_host:
        return value
    on_device = new_ort_value(array.dtype.name, array.shape, graph.device)
    on_device.update_inplace(array)
    return on_device
