"""A session of a bundle that keeps values inside of its graphs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from adapter_export.parity.localizing.graph_values import GraphValues
from adapter_export.runtime.adapters.choice import AdapterChoice
from adapter_export.runtime.generation.bound_graph import BoundGraph
from adapter_export.runtime.provider import open_serialized
from adapter_export.runtime.session import AdapterSession


class ProbedSession(AdapterSession):
    """An `AdapterSession` that also computes values inside of the graphs.

    Attributes:
        seen: By graph and value, the arrays of all runs since `watch`, one for each step.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: dict[tuple[str, str], list[np.ndarray]] = {}
        self._watched: dict[str, list[str]] = {}

    def watch(self, graphs: Mapping[str, GraphValues], values: Mapping[str, Collection[str]]) -> None:
        """Opens the graphs again, with these values among the outputs.

        Args:
            graphs: The graphs by file name.
            values: Names of values by file name of their graph.

        Raises:
            InputError: ONNX Runtime cannot load such a graph.
        """
        self.seen = {}
        opened = dict(self._opened())
        for file, graph in graphs.items():
            own = {*self.manifest.graphs[file].outputs}
            self._watched[file] = [name for name in values.get(file, ()) if name not in own]
            opened[file] = open_serialized(graph.with_outputs(self._watched[file]), self.bundle, self.provider)
        self._sessions = opened
        self._kept = {file: [*names] for file, names in values.items()}

    def bound(self, adapters: Sequence[AdapterChoice], *, head: str | None = None) -> dict[str, BoundGraph]:
        """Returns the graphs as `AdapterSession.bound`. Their runs keep the values."""
        lease = self._adapters.lease(self._rows(len(adapters), None, adapters, head))
        return {
            file: _ProbedGraph(session, self.provider, self._feeds(file, lease), lease).keeping(self, file)
            for file, session in self._opened().items()
        }

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        adapter: AdapterChoice = None,
        *,
        adapters: Sequence[AdapterChoice] | None = None,
        head: str | None = None,
    ) -> dict[str, np.ndarray]:
        """Runs as `AdapterSession.run`, and keeps the values."""
        rows = next(len(value) for value in inputs.values())
        graph = self.bound(self._rows(rows, adapter, adapters, head), head=head)[self.manifest.model]
        graph.feed(inputs)
        outputs = [*self.manifest.outputs]
        return {name: value.numpy() for name, value in graph.run(outputs, host=tuple(outputs)).items()}

    def keep(self, file: str, values: Mapping[str, np.ndarray]) -> None:
        """Keeps the values of one run."""
        for name in self._kept.get(file, ()):
            if name in values:
                self.seen.setdefault((file, name), []).append(values[name])

    def watched(self, file: str) -> list[str]:
        """Returns the values that a run must compute besides the outputs."""
        return self._watched.get(file, [])


class _ProbedGraph(BoundGraph):
    """A bound graph whose runs hand their values to a session."""

    def keeping(self, session: ProbedSession, file: str) -> _ProbedGraph:
        self._owner, self._file = session, file
        return self

    def run(self, outputs: list[str], host: tuple[str, ...] = ()) -> dict[str, Any]:
        watched = self._owner.watched(self._file)
        found = super().run([*outputs, *watched], host=(*host, *watched))
        self._owner.keep(self._file, {name: found[name].numpy().copy() for name in (*host, *watched)})
        return {name: found[name] for name in outputs}
