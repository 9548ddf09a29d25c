"""Runs each row of a batch of texts separately, without its padding, as the reference that no other row can affect."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

Arrays = Mapping[str, np.ndarray]


class CaseOutputs(Protocol):
    """Computes the outputs for one set of inputs. `Float64Case` and `CaseReference` do."""

    def on(self, adapter: Any) -> dict[str, np.ndarray]: ...

    def off(self, adapter: Any = None) -> dict[str, np.ndarray]: ...


C = TypeVar("C", bound=CaseOutputs)


class SeparateRows(Generic[C]):
    """Computes the outputs of a batch from one run per row. At padded positions the outputs are zero."""

    def __init__(self, make_case: Callable[[Arrays], C], inputs: Arrays, reread_at: int | None = None) -> None:
        """Prepares the runs.

        Args:
            make_case: Makes the run for inputs of a single row.
            inputs: Arrays of the batch by name; the first axis is the batch.
            reread_at: Length in tokens. When a generated text grows beyond it, the text is read again from its start,
                so the outputs at the first `reread_at` tokens are those of a text that ends there. None for texts that
                are read once.
        """
        self._mask = _mask(inputs)
        self._rows: list[list[C]] = []
        for row, kept in enumerate(self._mask):
            single = _without_padding(inputs, row, kept, self._mask.shape)
            runs = [make_case(single)]
            if reread_at is not None and kept.sum() > reread_at:
                runs.insert(0, make_case({name: value[:, :reread_at] for name, value in single.items()}))
            self._rows.append(runs)

    def on(self, adapter: Any) -> dict[str, np.ndarray]:
        """Returns the outputs with an adapter, by name."""
        return self._join([[run.on(adapter) for run in runs] for runs in self._rows])

    def off(self, adapter: Any = None) -> dict[str, np.ndarray]:
        """Returns the outputs without an adapter, by name; with the task head of `adapter` if it is given."""
        return self._join([[run.off(adapter) for run in runs] for runs in self._rows])

    def _join(self, rows: Sequence[Sequence[Arrays]]) -> dict[str, np.ndarray]:
        return {name: self._join_output([[run[name] for run in runs] for runs in rows]) for name in rows[0][0]}

    def _join_output(self, rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
        """Joins one output of all rows.

        Args:
            rows: The arrays [1, ...] of each row: that of the full text last, that of its beginning before it, if any.
        """
        tokens = self._mask.sum(axis=1)
        full = [runs[-1][0] for runs in rows]
        if full[0].ndim < 2 or any(len(value) != count for value, count in zip(full, tokens, strict=True)):
            return np.stack(full)  # one value or vector per text, not per token
        result = np.zeros((*self._mask.shape, *full[0].shape[1:]), full[0].dtype)
        for row, (kept, runs) in enumerate(zip(self._mask, rows, strict=True)):
            value = runs[-1][0].copy()
            for beginning in runs[:-1]:
                value[: beginning.shape[1]] = beginning[0]
            result[row, kept] = value
        return result


def _mask(inputs: Arrays) -> np.ndarray:
    """Returns a boolean array [rows, tokens]: True for tokens, False for padding."""
    if (mask := inputs.get("attention_mask")) is not None:
        return mask.astype(bool)
    return np.ones(inputs["input_ids" if "input_ids" in inputs else "decoder_input_ids"].shape, bool)


def _without_padding(inputs: Arrays, row: int, kept: np.ndarray, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Returns the inputs of one row. Arrays of the mask's shape lose their padded positions."""
    single = {name: value[row : row + 1] for name, value in inputs.items()}
    return {name: value[:, kept] if inputs[name].shape == shape else value for name, value in single.items()}
