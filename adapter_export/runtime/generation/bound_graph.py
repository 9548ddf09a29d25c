"""Runs a graph repeatedly, without copying its values through Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from adapter_export.bundle.ort_values import ort_value
from adapter_export.providers import Provider
from adapter_export.runtime.process import Home
from adapter_export.runtime.provider import run_errors

if TYPE_CHECKING:
    import onnxruntime as ort


class BoundGraph:
    """A graph with inputs that stay bound during many runs, such as adapter tensors.

    On CUDA a bound value is copied to the device once, when it is bound, and outputs stay there unless they are
    requested on the host. Adapter tensors are bound as inputs, because `run_with_iobinding` ignores an active
    LoraAdapter without an error; and as OrtValues, because `bind_cpu_input` does not find overridable initializers.

    Attributes:
        device: The provider that the graph runs on.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        device: Provider,
        fixed: Mapping[str, np.ndarray | ort.OrtValue],
        held: object = None,
    ) -> None:
        """Binds the first inputs.

        Args:
            session: The session of the graph.
            device: The provider that it runs on.
            fixed: Values by name that stay bound.
            held: An object to keep as long as this one exists, such as the lease that `fixed` comes from.
        """
        self._home = Home("BoundGraph")
        self.device, self._lease = device, held
        self._session = session
        self._binding = session.io_binding()
        # An OrtValue made from an array only points to the memory of the array. This dictionary keeps both.
        self._held: dict[str, ort.OrtValue] = {}
        # What `run_into` has bound as outputs.
        self._written: Mapping[str, ort.OrtValue] | None = None
        self.feed(fixed)

    def feed(self, values: Mapping[str, np.ndarray | ort.OrtValue]) -> None:
        """Binds inputs until they are replaced.

        Args:
            values: Arrays on the host, or OrtValues on any device, by name.
        """
        self._home.check()
        with run_errors():
            for name, value in values.items():
                bound = ort_value(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value
                self._binding.bind_ortvalue_input(name, bound)
                self._held[name] = bound

    def bind(self, name: str, value: ort.OrtValue) -> None:
        """Binds an input until it is replaced, without copying it."""
        self.feed({name: value})

    def run(self, outputs: list[str], host: tuple[str, ...] = ()) -> dict[str, ort.OrtValue]:
        """Runs the graph.

        Args:
            outputs: Names of the outputs to compute.
            host: Names of those among them that are returned on the CPU. The others stay on the device.

        Returns:
            The outputs by name.

        Raises:
            InputError: ONNX Runtime cannot run the bound inputs.
            ProviderError: The execution provider failed.
        """
        self._home.check()
        # An output stays bound to the memory of the last run, which had another shape.
        self._binding.clear_binding_outputs()
        self._written = None
        for name in outputs:
            self._binding.bind_output(name, str(Provider.CPU if name in host else self.device))
        self._binding.synchronize_inputs()
        with run_errors():
            self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        return dict(zip(outputs, self._binding.get_outputs(), strict=True))

    def run_into(self, outputs: Mapping[str, ort.OrtValue]) -> None:
        """Runs the graph, and has it write these outputs to these values. Nothing else is computed.

        As long as the outputs are the same objects, they stay bound from run to run.

        Args:
            outputs: Values of the right shapes by name.

        Raises:
            InputError: ONNX Runtime cannot run the bound inputs.
            ProviderError: The execution provider failed.
        """
        self._home.check()
        with run_errors():
            if self._written is not outputs:
                self._binding.clear_binding_outputs()
                for name, value in outputs.items():
                    self._binding.bind_ortvalue_output(name, value)
                self._written = outputs
            self._binding.synchronize_inputs()
            self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
