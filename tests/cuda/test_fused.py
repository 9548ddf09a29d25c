"""Graphs with ONNX Runtime's fused operators for CUDA: they hold such operators, which run there, and pass parity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from adapter_export.bundle.graphs import MODEL
from adapter_export.parity.run import check_parity
from adapter_export.providers import Provider
from adapter_export.runtime.session import AdapterSession
from tests.bundles import Exported
from tests.cuda.law import assert_passes
from tests.cuda.oracle import FLOAT32, error, first_output, given, in_pytorch


def fused_operators(exported: Exported) -> Counter[str]:
    import onnx

    graph = onnx.load(exported.bundle / MODEL, load_external_data=False).graph
    return Counter(node.op_type for node in graph.node if node.domain == "com.microsoft")


@pytest.mark.usefixtures("few_shapes")
@pytest.mark.parametrize(
    ("kind", "dtype"), [("classifier_with", "fp32"), ("decoder_with", "fp16"), ("decoder_with", "bf16")]
)
def test_they_pass_parity(
    kind: str, dtype: str, provider: Provider, figure: Callable[[str], None], request: pytest.FixtureRequest
) -> None:
    exported: Exported = request.getfixturevalue(kind)(dtype=dtype, fuse="cuda")
    counts = fused_operators(exported)
    figure(f"fused, {dtype}: {', '.join(f'{count} {op}' for op, count in sorted(counts.items()))}")
    assert counts["MultiHeadAttention"]
    if provider.on_host and dtype != "fp32":
        pytest.skip("a rehearsal: fused operators of half precision need a GPU")
    report = check_parity(exported.bundle, exported.base, exported.adapters, provider=provider)
    assert_passes(report, provider, figure)


def test_adapters_swap(
    classifier_with: Callable[..., Exported],
    inputs_for: Callable[..., dict[str, np.ndarray]],
    provider: Provider,
) -> None:
    """In float32, where ONNX Runtime's CPU provider has these operators, too."""
    exported = classifier_with(dtype="fp32", fuse="cuda")
    inputs = given(exported, inputs_for("bert", 3, 9))
    with AdapterSession(exported.bundle, provider=provider) as session:
        for name in [*exported.adapters] * 2:
            wanted = first_output(in_pytorch(exported, name), inputs)
            assert error(session.run(inputs, name)["logits"], wanted) < FLOAT32, name
