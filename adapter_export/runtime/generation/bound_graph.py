"""Running a graph again and again without its cache passing through Python."""

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
    """A graph with what stays bound over its runs: adapter tensors, and whatever else does not change.

    On CUDA a bound value is copied to the device once, when it is bound, and outputs stay there unless asked for on the
    host. `run_with_iobinding` drops an active LoraAdapter without a word, hence tensors are bound as inputs; and as
    OrtValues, for `bind_cpu_input` does not find overridable initializers.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        device: Provider,
        fixed: Mapping[str, np.ndarray | ort.OrtValue],
        held: object = None,
    ) -> None:
        """fixed: stays bound. held: kept as long as this is, such as the lease that `fixed` is from."""
        self._home = Home("BoundGraph")
        self.device, self._lease = device, held
        self._session = session
        self._binding = session.io_binding()
        # An OrtValue made from an array only points to its memory: these keep both.
        self._held: dict[str, ort.OrtValue] = {}
        self.feed(fixed)

    def feed(self, values: Mapping[str, np.ndarray | ort.OrtValue]) -> None:
        """Bind inputs that live on the host, or where they lie already; they stay until replaced."""
        for name, value in values.items():
            self.bind(name, ort_value(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value)

    def bind(self, name: str, value: ort.OrtValue) -> None:
        """Bind an input where it lies; it stays until replaced."""
        self._home.check()
        with run_errors():
            self._binding.bind_ortvalue_input(name, value)
        self._held[name] = value

    def run(self, outputs: list[str], host: tuple[str, ...] = ()) -> dict[str, ort.OrtValue]:
        """Outputs by name, those in `host` on the CPU, the others on the device."""
        self._home.check()
        # An output stays bound to the memory of the last run, whose shape is another.
        self._binding.clear_binding_outputs()
        for name in outputs:
            self._binding.bind_output(name, str(Provider.CPU if name in host else self.device))
        self._binding.synchronize_inputs()
        with run_errors():
            self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        return dict(zip(outputs, self._binding.get_outputs(), strict=True))


class CachedDecoder:
    """A decoder's graph and its growing cache: what a run gives as `present.X` is the next one's `past_key_values.X`.

    The cache starts empty. Inputs of that name without such an output (the keys and values of an encoder's states, in
    an encoder-decoder) do not grow: they are bound once, by who made them.
    """

    def __init__(self, graph: BoundGraph, info: GraphInfo, rows: int) -> None:
        self._graph, self._info, self._rows = graph, info, rows
        self._grown = {
            present_of(name): name for name in info.inputs if is_past(name) and present_of(name) in info.outputs
        }
        self.forget()

    def forget(self) -> None:
        """Empty the cache."""
        for name in self._grown.values():
            self._graph.bind(name, _empty(self._info.inputs[name], self._rows, self._graph.device))

    def run(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        """Logits of the last token, [rows, vocabulary]."""
        last: np.ndarray = self.logits(feeds)[:, -1].copy()
        return last

    def logits(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        """Logits of all tokens fed, [rows, tokens, vocabulary]: memory that ONNX Runtime owns, to be copied."""
        self._graph.feed(feeds)
        outputs = self._graph.run(["logits", *self._grown], host=("logits",))
        for present, past in self._grown.items():
            self._graph.bind(past, outputs[present])
        found: np.ndarray = outputs["logits"].numpy()
        return found


def _empty(info: TensorInfo, rows: int, device: Provider) -> ort.OrtValue:
    """A cache of no tokens: the first dim is the batch, the other named one the length."""
    shape = [rows, *(dim if isinstance(dim, int) else 0 for dim in info.shape[1:])]
    return new_ort_value(info.dtype, shape, device)
