"""An adapter in memory, and the lease by which a run holds its adapters."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from adapter_export.runtime.adapters.choice import AdapterKey
from adapter_export.runtime.process import Home

if TYPE_CHECKING:
    import onnxruntime as ort


@dataclass(frozen=True, eq=False)
class LoadedAdapter:
    """One adapter, never changed.

    Attributes:
        key: Its name in the session, or the composition that it is.
        tensors: Read-only arrays by their names in the graph.
        labels: Class names of its task head; None without one.
    """

    key: AdapterKey
    tensors: Mapping[str, np.ndarray]
    labels: tuple[str, ...] | None

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


# Reads an adapter that is not in memory; raises InputError for an unknown name or a broken file.
Load = Callable[[str], LoadedAdapter]


class Lease:
    """The adapters of one run. They stay as they are until the lease is released, or collected as garbage.

    Attributes:
        feeds: What the run feeds besides its inputs, by name.
        adapters: The adapter of each row; None for the base model.
    """

    def __init__(
        self,
        feeds: Mapping[str, np.ndarray | ort.OrtValue],
        adapters: Sequence[LoadedAdapter | None],
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self.feeds, self.adapters = feeds, tuple(adapters)
        # Also when the interpreter ends, which may be that of a fork.
        self.release = weakref.finalize(self, Home("a lease").only_here(release))

    def labels(self, base: Sequence[str] | None) -> list[int]:
        """Returns the number of labels of each row; an adapter without a head has those of the base model.

        Args:
            base: Class names of the base model's own head; None without one.
        """
        return [len(self.labels_of(row) or base or ()) for row in range(len(self.adapters))]

    def labels_of(self, row: int) -> tuple[str, ...] | None:
        """Returns the class names of the task head of a row's adapter; None without one."""
        adapter = self.adapters[row]
        return None if adapter is None else adapter.labels

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
