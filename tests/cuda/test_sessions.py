"""Sessions on the GPU against float64 PyTorch: every adapter, every mode, swapping, threads, bound graphs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from adapter_export.bundle.adapter_file import read_adapter_file, write_adapter_file
from adapter_export.bundle.graphs import MODEL
from adapter_export.bundle.manifest import adapter_path, read_manifest
from adapter_export.providers import Provider
from adapter_export.runtime.session import AdapterSession
from tests.bundles import Exported
from tests.cuda.oracle import FLOAT32, error, first_output, given, in_pytorch

NAMES = ("ia3_two", "ia3_three", "houlsby_four", "houlsby_two", "pfeiffer_five")


@pytest.fixture(scope="module")
def inputs(swappable_bundle: Exported, inputs_for: Callable[..., dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return given(swappable_bundle, inputs_for("bert", 4, 9))


@pytest.fixture(scope="module")
def expected(swappable_bundle: Exported, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: first_output(in_pytorch(swappable_bundle, name), inputs) for name in NAMES}


@pytest.fixture
def session(swappable_bundle: Exported, provider: Provider) -> Iterator[AdapterSession]:
    with AdapterSession(swappable_bundle.bundle, provider=provider) as opened:
        yield opened


def test_every_adapter_computes_what_pytorch_does(
    session: AdapterSession, inputs: dict[str, np.ndarray], expected: dict[str, np.ndarray]
) -> None:
    for name in (*NAMES, *NAMES):
        assert error(session.run(inputs, name)["logits"], expected[name]) < FLOAT32, name


def test_an_adapter_comes_back_bit_for_bit(session: AdapterSession, inputs: dict[str, np.ndarray]) -> None:
    first = session.run(inputs, "houlsby_two")["logits"]
    session.run(inputs, "ia3_two")
    session.run(inputs)
    assert session.run(inputs, "houlsby_two")["logits"].tobytes() == first.tobytes()


@pytest.mark.parametrize(("bundle", "adapter"), [("embedded_bundle", "houlsby_four"), ("merged_bundle", "ia3_three")])
def test_an_adapter_in_the_graph(
    bundle: str,
    adapter: str,
    inputs: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
    provider: Provider,
    request: pytest.FixtureRequest,
) -> None:
    exported: Exported = request.getfixturevalue(bundle)
    with AdapterSession(exported.bundle, provider=provider) as opened:
        assert error(opened.run(inputs, adapter)["logits"], expected[adapter]) < FLOAT32


def test_an_adapter_and_the_base_model_without_a_head(
    lora_bundle: Exported, inputs_for: Callable[..., dict[str, np.ndarray]], provider: Provider
) -> None:
    inputs = given(lora_bundle, inputs_for("bert", 3, 7))
    kept = inputs["attention_mask"].astype(bool)
    with AdapterSession(lora_bundle.bundle, provider=provider) as opened:
        for name in ("lora", None):
            found = opened.run(inputs, name)["last_hidden_state"]
            assert error(found, first_output(in_pytorch(lora_bundle, name), inputs), kept) < FLOAT32, name


def test_a_composition_is_that_of_the_cpu(
    swappable_bundle: Exported, session: AdapterSession, inputs: dict[str, np.ndarray], expected: dict[str, np.ndarray]
) -> None:
    strengths, head = {"ia3_two": 0.7, "ia3_three": 0.4}, "ia3_three"
    found = session.run(inputs, strengths, head=head)["logits"]
    with AdapterSession(swappable_bundle.bundle) as on_cpu:
        assert error(found, on_cpu.run(inputs, strengths, head=head)["logits"]) < FLOAT32
    assert error(found, expected["ia3_three"]) > 100 * FLOAT32, "the strengths must matter"


def test_a_file_from_outside_the_bundle(
    session: AdapterSession, swappable_bundle: Exported, inputs: dict[str, np.ndarray], tmp_path: Path
) -> None:
    tensors = read_adapter_file(swappable_bundle.bundle / adapter_path("ia3_two"))
    changed = {name: np.ascontiguousarray(tensor[::-1]) for name, tensor in tensors.items()}
    path = tmp_path / "other.onnx_adapter"
    write_adapter_file(path, changed, read_manifest(swappable_bundle.bundle).base.sha256)
    own = session.run(inputs, "ia3_two")["logits"]
    session.load("other", path)
    with AdapterSession(swappable_bundle.bundle) as on_cpu:
        on_cpu.load("other", path)
        wanted = on_cpu.run(inputs, "other")["logits"]
    assert error(session.run(inputs, "other")["logits"], wanted) < FLOAT32
    assert error(own, wanted) > 100 * FLOAT32, "the other file must be another adapter"


def test_threads_with_an_adapter_each(
    session: AdapterSession, inputs: dict[str, np.ndarray], expected: dict[str, np.ndarray]
) -> None:
    def errors(name: str) -> list[float]:
        return [error(session.run(inputs, name)["logits"], expected[name]) for _ in range(20)]

    with ThreadPoolExecutor(len(NAMES)) as pool:
        assert max(max(found) for found in pool.map(errors, NAMES)) < FLOAT32


def test_a_bound_graph_leaves_its_outputs_on_the_device(
    session: AdapterSession, inputs: dict[str, np.ndarray], provider: Provider
) -> None:
    for name in ("ia3_two", "houlsby_four"):
        graph = session.bound([name] * 4)[MODEL]
        graph.feed(inputs)
        kept, copied = graph.run(["logits"])["logits"], graph.run(["logits"], host=("logits",))["logits"]
        assert (kept.device_name(), copied.device_name()) == (str(provider), "cpu")
        wanted = session.run(inputs, name)["logits"]
        assert error(copied.numpy(), wanted) < FLOAT32
        assert error(kept.numpy(), wanted) < FLOAT32


def test_the_command_says_where_it_ran(swappable_bundle: Exported, provider: Provider) -> None:
    command = [sys.executable, "-m", "adapter_export", "run", "--bundle", str(swappable_bundle.bundle)]
    done = subprocess.run(
        [*command, "--adapter", "ia3_two", "--text", "a lovely day", "--provider", str(provider), "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["provider"] == str(provider)
