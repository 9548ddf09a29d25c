"""R: what each adapter should give, in float64, by its witness where one runs here, else by our own injection."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.parity.recording.subject import Subject
from adapter_export.parity.reference import Outputs, Reference, few_threads
from adapter_export.parity.witness import run_witness

Arrays = Mapping[str, np.ndarray]


class Float64Reference:
    """own: our injection in float64. subjects: the witnesses by adapter. outputs: the names that the graphs give."""

    def __init__(
        self,
        own: Reference,
        adapters: Mapping[str, Adapter],
        subjects: Mapping[str, Subject],
        outputs: Mapping[str, object],
    ) -> None:
        self.own, self.adapters, self.subjects, self.outputs = own, adapters, subjects, outputs

    def case(self, inputs: Arrays) -> Float64Case:
        return Float64Case(self, inputs)


class Float64Case:
    """The outputs for one set of inputs."""

    def __init__(self, exact: Float64Reference, inputs: Arrays) -> None:
        self._exact, self._inputs = exact, inputs
        self._own = exact.own.case(inputs)

    def on(self, name: str) -> Outputs:
        """With the adapter of that name."""
        if (subject := self._exact.subjects.get(name)) is None:
            return self._own.on(self._exact.adapters[name])
        return self._run(subject, name, on=True)

    def off(self, name: str | None = None) -> Outputs:
        """Without any adapter, and with the task head of the one of that name."""
        if name is None or (subject := self._exact.subjects.get(name)) is None:
            return self._own.off(None if name is None else self._exact.adapters[name])
        return self._run(subject, str(name), on=False)

    def _run(self, subject: Subject, name: str, *, on: bool) -> Outputs:
        with few_threads(self._exact.own.parameters, self._inputs):
            found = run_witness(subject, self._inputs, on=on)
        # Of outputs that the task does not have, the library gives others besides.
        wanted = {output: value for output, value in found.items() if output in self._exact.outputs}
        if subject.body_only and wanted and self._exact.outputs.keys() - wanted.keys():
            # The body of a class with a task head may lack what the base class has: a pooler, which no head reads.
            adapter = self._exact.adapters[name]
            own = self._own.on(adapter) if on else self._own.off(adapter)
            wanted = {output: wanted.get(output, value) for output, value in own.items()}
        return wanted or found
