"""Where nodes ran, by ONNX Runtime's profile: all arithmetic on the GPU, in graphs of every kind."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from adapter_export.bundle.manifest import read_manifest
from adapter_export.parity.checks.providers import check_provider, read_profile
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.whole_model import whole_model_inputs
from adapter_export.providers import Provider
from adapter_export.runtime.session import AdapterSession
from tests.bundles import Exported
from tests.cuda.oracle import given

# What makes up nearly all of a model's time, by its names in ONNX and in ONNX Runtime.
PRODUCTS = {"MatMul", "Gemm", "FusedMatMul", "FusedGemm"}


@pytest.mark.parametrize(
    ("bundle", "adapter"),
    [
        ("swappable_bundle", "houlsby_four"),
        ("bank_bundle", "pfeiffer_five"),
        ("merged_bundle", "ia3_three"),
        ("lora_bundle", "lora"),
    ],
)
def test_products_run_on_the_gpu(
    bundle: str,
    adapter: str,
    inputs_for: Callable[..., dict[str, np.ndarray]],
    provider: Provider,
    figure: Callable[[str], None],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    """By the profile as ONNX Runtime writes it, without the package's own reading of it."""
    exported: Exported = request.getfixturevalue(bundle)
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    inputs = inputs_for("bert", 3, 9)
    with AdapterSession(exported.bundle, provider=provider, options=options) as session:
        fed = {name: value for name, value in given(exported, inputs).items() if name != "adapter_ids"}
        session.run(fed, adapters=[adapter] * 3)
    (file,) = tmp_path.glob("profile*.json")
    events = [event for event in json.loads(file.read_text()) if event.get("cat") == "Node"]
    places = Counter(
        (event["args"]["op_name"], event["args"]["provider"]) for event in events if event["args"].get("provider")
    )
    products = {place: count for place, count in places.items() if place[0] in PRODUCTS}
    assert products
    assert {where for _, where in products} == {provider.execution_provider}, products
    elsewhere = Counter(op for op, where in places if where != provider.execution_provider)
    placed = read_profile(events)[provider.execution_provider]
    figure(
        f"{bundle}: {placed.total()} nodes on {provider.execution_provider}, {placed['MemcpyToHost']} copies to the "
        f"host and {placed['MemcpyFromHost']} from it; elsewhere: {', '.join(sorted(elsewhere)) or 'none'}"
    )


@pytest.mark.parametrize(
    ("bundle", "architecture", "adapter"),
    [("swappable_bundle", "bert", "ia3_two"), ("llama_bundle", "llama", "houlsby"), ("t5_bundle", "t5", "ia3")],
)
def test_parity_finds_the_same(
    bundle: str,
    architecture: str,
    adapter: str,
    inputs_for: Callable[..., dict[str, np.ndarray]],
    provider: Provider,
    request: pytest.FixtureRequest,
) -> None:
    """A graph of one pass, one with a cache, and two graphs."""
    exported: Exported = request.getfixturevalue(bundle)
    inputs = inputs_for(architecture, 2, 9)
    mask = inputs["attention_mask"]
    made = {**inputs, "position_ids": np.maximum(mask.cumsum(axis=1) - 1, 0), "token_type_ids": np.zeros_like(mask)}
    fed = {name: made[name] for name in whole_model_inputs(read_manifest(exported.bundle))}
    shares, check = check_provider(exported.bundle, provider, fed, adapter)
    assert check.verdict is Verdict.PASS, check
    assert sum(shares.values()) == pytest.approx(1)
    assert provider.execution_provider in shares
