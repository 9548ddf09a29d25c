"""Bound graphs against plain runs of the same session: the same bits, by the calls that a GPU is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnxruntime as ort
import pytest

from adapter_export.bundle.adapter_file import read_adapter_file
from adapter_export.bundle.graphs import MODEL
from adapter_export.bundle.manifest import adapter_path, read_manifest
from adapter_export.bundle.ort_values import ort_value
from adapter_export.providers import Provider
from adapter_export.runtime.generation.bound_graph import BoundGraph
from adapter_export.runtime.session import AdapterSession
from tests.bundles import Exported

NAMES = ("ia3_two", "houlsby_four", "ia3_two", "pfeiffer_five")


@pytest.fixture(scope="module")
def inputs(inputs_for: Callable[..., dict[str, np.ndarray]], swappable_bundle: Exported) -> dict[str, np.ndarray]:
    batch = inputs_for("bert", 3, 8)
    wanted = read_manifest(swappable_bundle.bundle).inputs
    return {name: batch.get(name, np.zeros_like(batch["input_ids"])) for name in wanted}


@pytest.fixture(scope="module")
def plain(swappable_bundle: Exported) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(swappable_bundle.bundle / MODEL, options, providers=["CPUExecutionProvider"])


@pytest.fixture
def session(swappable_bundle: Exported) -> Iterator[AdapterSession]:
    with AdapterSession(swappable_bundle.bundle) as opened:
        yield opened


def test_a_bound_run_is_a_plain_run(
    session: AdapterSession, plain: ort.InferenceSession, swappable_bundle: Exported, inputs: dict[str, np.ndarray]
) -> None:
    for name in NAMES:
        tensors = read_adapter_file(swappable_bundle.bundle / adapter_path(name))
        (wanted,) = plain.run(["logits"], {**inputs, **tensors})
        graph = session.bound([name] * 3)[MODEL]
        graph.feed(inputs)
        for host in ((), ("logits",)):
            found = graph.run(["logits"], host=host)["logits"]
            assert found.device_name() == "cpu"
            assert found.numpy().tobytes() == wanted.tobytes(), name


def test_an_input_stays_bound_until_it_is_replaced(
    session: AdapterSession, plain: ort.InferenceSession, swappable_bundle: Exported, inputs: dict[str, np.ndarray]
) -> None:
    tensors = read_adapter_file(swappable_bundle.bundle / adapter_path("ia3_two"))
    graph = session.bound(["ia3_two"] * 3)[MODEL]
    graph.feed(inputs)
    longer = {name: np.concatenate([value, value], axis=1) for name, value in inputs.items()}
    for given in (inputs, longer, inputs):
        graph.feed(given)
        (wanted,) = plain.run(["logits"], {**given, **tensors})
        for _ in range(2):
            assert graph.run(["logits"])["logits"].numpy().tobytes() == wanted.tobytes()


def test_outputs_that_are_written_into_memory_of_the_caller(
    session: AdapterSession, plain: ort.InferenceSession, swappable_bundle: Exported, inputs: dict[str, np.ndarray]
) -> None:
    tensors = read_adapter_file(swappable_bundle.bundle / adapter_path("houlsby_four"))
    (wanted,) = plain.run(["logits"], {**inputs, **tensors})
    graph = session.bound(["houlsby_four"] * 3)[MODEL]
    graph.feed(inputs)
    memory = np.zeros_like(wanted)
    outputs = {"logits": ort_value(memory)}
    for _ in range(2):
        memory[...] = 0
        graph.run_into(outputs)
        assert memory.tobytes() == wanted.tobytes()


class Recorded:
    """A binding that notes what it is told, in place of ONNX Runtime's."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., list[object]]:
        return lambda *arguments: (self.calls.append((name, *arguments)), [])[1]


def test_what_a_binding_is_told_on_a_gpu() -> None:
    """Outputs stay on the device unless they are asked for on the host, and both ends of a run are waited for."""
    binding = Recorded()
    ran: list[object] = []

    class Session:
        def io_binding(self) -> Recorded:
            return binding

        def run_with_iobinding(self, given: object) -> None:
            ran.append(given)
            binding.calls.append(("run",))

    graph = BoundGraph(Session(), Provider.CUDA, {})
    value = ort_value(np.zeros(2, np.float32))
    graph.bind("cache", value)
    with pytest.raises(ValueError, match="zip"):  # the binding above returns no outputs
        graph.run(["logits", "present"], host=("logits",))
    assert ran == [binding]
    assert binding.calls == [
        ("bind_ortvalue_input", "cache", value),
        ("clear_binding_outputs",),
        ("bind_output", "logits", "cpu"),
        ("bind_output", "present", "cuda"),
        ("synchronize_inputs",),
        ("run",),
        ("synchronize_outputs",),
        ("get_outputs",),
    ]
