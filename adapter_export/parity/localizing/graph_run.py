"""Runs a bundle for one case, and returns values inside of its graphs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from adapter_export.bundle.graphs import ENCODER
from adapter_export.bundle.manifest import Manifest
from adapter_export.parity.bundle_runner import BundleRunner
from adapter_export.parity.localizing.comparison import rows_of
from adapter_export.parity.localizing.departure import in_words
from adapter_export.parity.localizing.graph_values import GraphValues
from adapter_export.parity.localizing.probed_session import ProbedSession
from adapter_export.parity.whole_model import encoder_output
from adapter_export.runtime.generation.prepare import generates

Arrays = Mapping[str, np.ndarray]


class GraphRun:
    """One case with one adapter, or with none."""

    def __init__(
        self,
        runner: BundleRunner,
        graphs: Mapping[str, GraphValues],
        inputs: Arrays,
        adapter: str | None,
        *,
        on: bool,
        in_steps: bool,
    ) -> None:
        """Keeps what to run.

        Args:
            runner: Runs the bundle; its session is a `ProbedSession`.
            graphs: The graphs by file name.
            inputs: Arrays by name.
            adapter: Name of the adapter; None for no adapter.
            on: Whether its body acts.
            in_steps: Whether a graph with a cache runs in several steps.
        """
        assert isinstance(runner.session, ProbedSession)
        self._runner, self._session, self._graphs = runner, runner.session, graphs
        self._inputs, self._adapter, self._on, self._in_steps = inputs, adapter, on, in_steps

    @property
    def _manifest(self) -> Manifest:
        return self._session.manifest

    @property
    def words(self) -> str:
        """How the case is run, in words."""
        steps = "in steps" if self._in_steps else "read at once"
        return f"{in_words(self._on)}, {steps}" if generates(self._manifest) else in_words(self._on)

    def values(self, names: Mapping[str, Collection[str]]) -> dict[tuple[str, str], Sequence[np.ndarray]]:
        """Runs the case, and returns values by graph and name: one array for each step that a graph runs.

        Args:
            names: Names of values by graph.

        Raises:
            AdapterExportError: ONNX Runtime cannot run the case.
        """
        self._session.watch(self._graphs, names)
        self._runner.whole_model.in_steps = self._in_steps
        if self._on:
            assert self._adapter is not None
            outputs = self._runner.on(self._inputs, self._adapter)
        else:
            outputs = self._runner.off(self._inputs, self._adapter)
        found: dict[tuple[str, str], Sequence[np.ndarray]] = {
            key: [self._own_rows(run) for run in runs] for key, runs in self._session.seen.items()
        }
        # The outputs of the model are cut to the labels of the adapter.
        for file, graph in self._manifest.graphs.items():
            for name in graph.outputs:
                whole = encoder_output(name) if file == ENCODER else name
                if whole in outputs and file in (self._manifest.model, ENCODER):
                    found[file, name] = [outputs[whole]]
        return found

    def _own_rows(self, value: np.ndarray) -> np.ndarray:
        """Returns the rows of the case: in a bank, each was run between rows of other adapters."""
        rows = rows_of(self._inputs)
        between = self._manifest.mode.per_row and value.ndim > 0 and len(value) == 2 * rows + 1
        return value[1::2] if between else value
