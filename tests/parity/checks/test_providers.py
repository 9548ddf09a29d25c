"""The execution providers of nodes, read from profiles of ONNX Runtime, and the check of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_export.bundle.graphs import ENCODER
from adapter_export.bundle.manifest import read_manifest
from adapter_export.parity.checks import providers as module
from adapter_export.parity.checks.providers import check_provider, judge_placement, profile, read_profile
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.runtime.session import AdapterSession
from tests.bundles import Exported

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def event(name: str, op: str, provider: str, **more: Any) -> dict[str, Any]:
    return {"cat": "Node", "name": name, "args": {"op_name": op, "provider": provider}, **more}


def test_a_profile_is_counted_by_node() -> None:
    events = [
        {"cat": "Session", "name": "model_run", "args": {}},
        {"cat": "Node", "name": "a_fence_before", "args": {"op_name": "MatMul"}},
        event("a_kernel_time", "MatMul", CUDA, dur=5),
        event("a_kernel_time", "MatMul", CUDA, dur=7),
        event("b_kernel_time", "MatMul", CUDA),
        event("c_kernel_time", "Shape", CPU),
        {"name": "process_name", "ph": "M"},
    ]
    assert read_profile(events) == {CUDA: Counter(MatMul=2), CPU: Counter(Shape=1)}


@pytest.mark.parametrize(
    ("provider", "nodes", "verdict", "detail"),
    [
        ("cpu", {CPU: Counter(MatMul=3, Shape=1)}, Verdict.PASS, f"4 of 4 nodes on {CPU}"),
        ("cuda", {CUDA: Counter(MatMul=3)}, Verdict.PASS, f"3 of 3 nodes on {CUDA}"),
        (
            "cuda",
            {CUDA: Counter(MatMul=3), CPU: Counter(Shape=2, Gather=1)},
            Verdict.PASS,
            f"3 of 6 nodes on {CUDA}, 3 on {CPU}",
        ),
        (
            "cuda",
            {CUDA: Counter(MatMul=3), CPU: Counter(FusedMatMul=2, Shape=1)},
            Verdict.FAIL,
            f"cuda was asked for, but 3 of 6 nodes on {CUDA}: 2 FusedMatMul on {CPU}",
        ),
        (
            "cuda",
            {CPU: Counter(Gemm=1)},
            Verdict.FAIL,
            f"cuda was asked for, but 0 of 1 nodes on {CUDA}: 1 Gemm on {CPU}",
        ),
        (
            "cuda",
            {CUDA: Counter(Memcpy=2), CPU: Counter(Shape=1)},
            Verdict.FAIL,
            f"cuda was asked for, but 2 of 3 nodes on {CUDA}: no arithmetic there",
        ),
        ("cpu", {}, Verdict.FAIL, f"cpu was asked for, but 0 of 0 nodes on {CPU}: no arithmetic there"),
    ],
)
def test_arithmetic_must_be_where_it_was_asked_for(
    provider: str, nodes: dict[str, Counter[str]], verdict: Verdict, detail: str
) -> None:
    check = judge_placement(provider, nodes)
    assert (check.verdict, check.detail) == (verdict, detail)


@pytest.fixture
def inputs(swappable_bundle: Exported, inputs_for: Callable[..., dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    batch = inputs_for("bert", 2, 5)
    wanted = read_manifest(swappable_bundle.bundle).inputs
    return {name: batch.get(name, np.zeros_like(batch["input_ids"])) for name in wanted}


def test_a_real_profile(swappable_bundle: Exported, inputs: dict[str, np.ndarray]) -> None:
    nodes = profile(swappable_bundle.bundle, "cpu", inputs, "houlsby_four")
    assert list(nodes) == [CPU]
    # Two matrices in each of four bottlenecks, and six in each of two layers.
    matrices = sum(count for op, count in nodes[CPU].items() if "MatMul" in op or "Gemm" in op)
    assert matrices >= 4 * 2 + 2 * 6
    shares, check = check_provider(swappable_bundle.bundle, "cpu", inputs)
    assert shares == {CPU: 1.0}
    assert check.verdict is Verdict.PASS


def test_every_graph_of_a_bundle_counts(t5_bundle: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.arange(4, 14).reshape(2, 5)
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids), "decoder_input_ids": ids}
    nodes = profile(t5_bundle.bundle, "cpu", batch)
    # In two layers of encoder and decoder: 6 weights and 2 of attention; 10 and 4. In each graph fewer than in both.
    assert sum(count for op, count in nodes[CPU].items() if "MatMul" in op) >= 2 * (8 + 14) + 1
    monkeypatch.setattr(module, "WholeModel", EncoderAlone)
    _, check = check_provider(t5_bundle.bundle, "cpu", batch)
    assert check.verdict is Verdict.FAIL
    assert "wrote no profile of encoder_model.onnx and decoder_model.onnx" in check.detail


class EncoderAlone:
    """Runs the encoder's graph, and not the decoder's: on which provider the decoder would run is then not known."""

    def __init__(self, session: AdapterSession) -> None:
        self._session = session

    def run(self, inputs: dict[str, np.ndarray], _: object) -> None:
        encoder = self._session.bound([None])[ENCODER]
        encoder.feed({name: inputs[name] for name in ("input_ids", "attention_mask")})
        encoder.run(["last_hidden_state"], host=("last_hidden_state",))


def test_a_run_that_fails_is_no_proof(swappable_bundle: Exported, inputs: dict[str, np.ndarray]) -> None:
    shares, check = check_provider(swappable_bundle.bundle, "cpu", inputs, "nobody")
    assert shares == {}
    assert check.verdict is Verdict.FAIL
    assert check.detail.startswith("did not run: adapter 'nobody'")


def test_a_session_that_writes_no_profile_is_no_proof(
    swappable_bundle: Exported, inputs: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Options:
        """Session options without any effect: no profile is written."""

    monkeypatch.setattr(module, "quiet_options", Options)
    monkeypatch.setattr(module, "AdapterSession", _SilentSession)
    _, check = check_provider(swappable_bundle.bundle, "cpu", inputs)
    assert check.verdict is Verdict.FAIL
    assert "wrote no profile" in check.detail


class _SilentSession:
    def __init__(self, bundle: Path, *_: Any, **__: Any) -> None:
        self.manifest = read_manifest(bundle)

    def __enter__(self) -> _SilentSession:
        return self

    def __exit__(self, *_: object) -> None: ...

    def run(self, *_: Any, **__: Any) -> dict[str, np.ndarray]:
        return {}
