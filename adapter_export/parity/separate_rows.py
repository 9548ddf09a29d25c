"""A batch of texts whose rows are run one by one, without their padding: what each row is to get, whoever its
neighbours are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

Arrays = Mapping[str, np.ndarray]


class Runs(Protocol):
    """Outputs for one set of inputs, as `exact.Float64Case` and `reference.CaseReference` have them."""

    def on(self, adapter: Any) -> dict[str, np.ndarray]: ...

    def off(self, adapter: Any = None) -> dict[str, np.ndarray]: ...


C = TypeVar("C", bound=Runs)


class SeparateRows(Generic[C]):
    """The outputs of a batch, each row's from a run of its own; zeros where it has padding.

    make: gives the runs for inputs of one row. reread_at: tokens beyond which a text that grows is read again: outputs
    at the first so many tokens are those of a text that ends there. None for texts that are read at once.
    """

    def __init__(self, make: Callable[[Arrays], C], inputs: Arrays, reread_at: int | None = None) -> None:
        self._mask = _mask(inputs)
        self._rows: list[list[C]] = []
        for row, kept in enumerate(self._mask):
            single = _unpadded(inputs, row, kept, self._mask.shape)
            begun = None if reread_at is None or kept.sum() <= reread_at else _cut(single, reread_at)
            self._rows.append([*([] if begun is None else [make(begun)]), make(single)])

    def on(self, adapter: Any) -> dict[str, np.ndarray]:
        return self._together([[run.on(adapter) for run in runs] for runs in self._rows])

    def off(self, adapter: Any = None) -> dict[str, np.ndarray]:
        return self._together([[run.off(adapter) for run in runs] for runs in self._rows])

    def _together(self, rows: Sequence[Sequence[Arrays]]) -> dict[str, np.ndarray]:
        return {name: self._stacked([[run[name] for run in runs] for runs in rows]) for name in rows[0][0]}

    def _stacked(self, rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
        tokens = self._mask.sum(axis=1)
        whole = [runs[-1][0] for runs in rows]
        if whole[0].ndim < 2 or any(len(value) != count for value, count in zip(whole, tokens, strict=True)):
            return np.stack(whole)  # of a whole text
        result = np.zeros((*self._mask.shape, *whole[0].shape[1:]), whole[0].dtype)
        for row, (kept, runs) in enumerate(zip(self._mask, rows, strict=True)):
            value = runs[-1][0].copy()
            for begun in runs[:-1]:
                value[: begun.shape[1]] = begun[0]
            result[row, kept] = value
        return result


def _mask(inputs: Arrays) -> np.ndarray:
    if (mask := inputs.get("attention_mask")) is not None:
        return mask.astype(bool)
    return np.ones(inputs["input_ids" if "input_ids" in inputs else "decoder_input_ids"].shape, bool)


def _unpadded(inputs: Arrays, row: int, kept: np.ndarray, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    single = {name: value[row : row + 1] for name, value in inputs.items()}
    return {name: value[:, kept] if inputs[name].shape == shape else value for name, value in single.items()}


def _cut(single: Arrays, length: int) -> dict[str, np.ndarray]:
    return {name: value[:, :length] for name, value in single.items()}
