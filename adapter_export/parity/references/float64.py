"""Computes R: the outputs of each adapter in float64, by its witness if one runs here, else by our own injection."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.parity.recording.subject import Subject
from adapter_export.parity.references.pytorch import ModelOutputs, Reference, few_threads
from adapter_export.parity.references.witness import run_witness

Arrays = Mapping[str, np.ndarray]


class Float64Reference:
    """The float64 models of all adapters.

    Attributes:
        own: Our own injection, in float64.
        adapters: The adapters as our own code reads them, by name.
        subjects: The models of the witnesses by adapter, for adapters that have a witness in this process.
        outputs: The names of the outputs of the graphs, as keys.
    """

    def __init__(
        self,
        own: Reference,
        adapters: Mapping[str, Adapter],
        subjects: Mapping[str, Subject],
        outputs: Mapping[str, object],
    ) -> None:
        self.own, self.adapters, self.subjects, self.outputs = own, adapters, subjects, outputs

    def case(self, inputs: Arrays) -> Float64Case:
        """Returns the case for these inputs; its outputs are computed when they are asked for."""
        return Float64Case(self, inputs)


class Float64Case:
    """Computes the outputs for one set of inputs."""

    def __init__(self, models: Float64Reference, inputs: Arrays) -> None:
        self._models, self._inputs = models, inputs
        self._own = models.own.case(inputs)

    def on(self, name: str) -> ModelOutputs:
        """Returns the outputs with the adapter of that name."""
        if (subject := self._models.subjects.get(name)) is None:
            return self._own.on(self._models.adapters[name])
        return self._run(subject, name, on=True)

    def off(self, name: str | None = None) -> ModelOutputs:
        """Returns the outputs without any adapter, but with the task head of the adapter of that name, if given."""
        if name is None or (subject := self._models.subjects.get(name)) is None:
            return self._own.off(None if name is None else self._models.adapters[name])
        return self._run(subject, str(name), on=False)

    def _run(self, subject: Subject, name: str, *, on: bool) -> ModelOutputs:
        with few_threads(self._models.own.parameters, self._inputs):
            outputs = run_witness(subject, self._inputs, on=on)
        # The library may return further outputs, which the task does not have.
        task_outputs = {output: value for output, value in outputs.items() if output in self._models.outputs}
        if subject.body_only and task_outputs and self._models.outputs.keys() - task_outputs.keys():
            # The body of a class with a task head may lack an output of the base class: a pooler, which no head reads.
            # It is taken from our own injection.
            adapter = self._models.adapters[name]
            own = self._own.on(adapter) if on else self._own.off(adapter)
            task_outputs = {output: task_outputs.get(output, value) for output, value in own.items()}
        return task_outputs or outputs
