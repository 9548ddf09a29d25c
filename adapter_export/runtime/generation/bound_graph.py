"""Runs a graph repeatedly, without copying its cache through Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from adapter_export.bundle.graphs import is_past, present_of
from adapter_export.bundle.manifest import GraphInfo, TensorInfo
from adapter_export.bundle.ort_values import new_ort_value, ort_value
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
        self.feed(fixed)

    def feed(self, values: Mapping[str, np.ndarray | ort.OrtValue]) -> None:
        """Binds inputs until they are replaced.

        Args:
            values: Arrays on the host, or OrtValues on any device, by name.
        """
        for name, value in values.items():
            self.bind(name, ort_value(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value)

    def bind(self, name: str, value: ort.OrtValue) -> None:
        """Binds an input until it is replaced, without copying it."""
        self._home.check()
        with run_errors():
            self._binding.bind_ortvalue_input(name, value)
        self._held[name] = value

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
        for name in outputs:
            self._binding.bind_output(name, str(Provider.CPU if name in host else self.device))
        self._binding.synchronize_inputs()
        with run_errors():
            self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        return dict(zip(outputs, self._binding.get_outputs(), strict=True))


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
        self._grown = {
            present_of(name): name for name in info.inputs if is_past(name) and present_of(name) in info.outputs
        }
        self.forget()

    def forget(self) -> None:
        """Empties the cache."""
        for name in self._grown.values():
            self._graph.bind(name, _empty(self._info.inputs[name], self._rows, self._graph.device))

    def run(self, feeds: Mapping[str, np.ndarray], last: np.ndarray | None = None) -> np.ndarray:
        """Runs the graph, and returns the logits of each row's last token, [rows, vocabulary].

        Args:
            feeds: The inputs by name.
            last: The column of each row's last token; None if it is the last column.
        """
        logits = self.logits(feeds)
        found: np.ndarray = (logits[:, -1] if last is None else logits[np.arange(len(last)), last]).copy()
        return found

    def logits(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        """Runs the graph, and returns the logits of all tokens fed, [rows, tokens, vocabulary].

        ONNX Runtime owns their memory. Copy them to keep them.
        """
        self._graph.feed(feeds)
        outputs = self._graph.run(["logits", *self._grown], host=("logits",))
        for present, past in self._grown.items():
            self._graph.bind(past, outputs[present])
        logits: np.ndarray = outputs["logits"].numpy()
        return logits


def _empty(info: TensorInfo, rows: int, device: Provider) -> ort.OrtValue:
    """Returns a cache without tokens. The first dim is the batch; the other named dim is the length, here 0."""
    shape = [rows, *(dim if isinstance(dim, int) else 0 for dim in info.shape[1:])]
    return new_ort_value(info.dtype, shape, device)
