"""Precision on the GPU: TF32 off is float32, TF32 on is judged as the ten bits of its mantissa are, and graphs in
float16 and bfloat16 pass parity's own criteria, with PyTorch at the same precision beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import pytest

from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.criteria.measure import OutputArrays
from adapter_export.parity.run import check_parity
from adapter_export.providers import Provider
from adapter_export.runtime.session import AdapterSession
from tests.bundles import Exported
from tests.cuda import machine
from tests.cuda.law import assert_passes, judged
from tests.cuda.oracle import first_output, given, in_pytorch

ADAPTERS = ("ia3_a", "lora", "houlsby")
SHAPES = ((1, 1), (3, 9), (2, 65), (4, 127))


@contextmanager
def tf32_in_pytorch(on: bool) -> Iterator[None]:
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if on else "highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(scope="module")
def swappable(wide: Callable[[str], Exported]) -> Exported:
    return wide("swappable")


@pytest.fixture(scope="module")
def cases(swappable: Exported, inputs_for: Callable[..., dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    return [given(swappable, inputs_for("bert", *shape, seed=seed)) for seed, shape in enumerate(SHAPES)]


@pytest.mark.parametrize("tf32", [False, True])
def test_float32_with_and_without_tf32(
    swappable: Exported,
    cases: list[dict[str, np.ndarray]],
    tf32: bool,
    provider: Provider,
    figure: Callable[[str], None],
) -> None:
    """T is PyTorch's float32 on the same GPU, with TF32 as ONNX Runtime has it. TF32 has the mantissa of float16, so
    its errors are judged by the thresholds of float16."""
    if tf32 and (provider.on_host or not machine.torch_has_cuda()):
        pytest.skip("TF32 needs a GPU, and a PyTorch that computes on it")
    device = "cuda" if machine.torch_has_cuda() else "cpu"
    names = (None, *ADAPTERS)
    exact = {name: in_pytorch(swappable, name) for name in names}
    rounded = {name: in_pytorch(swappable, name, "float32", device) for name in names}
    with AdapterSession(swappable.bundle, provider=provider, tf32=tf32) as session, tf32_in_pytorch(tf32):

        def outputs(case: Mapping[str, np.ndarray], adapter: str | None) -> OutputArrays:
            return OutputArrays(
                first_output(exact[adapter], case),
                (first_output(rounded[adapter], case),),
                session.run(case, adapter)["last_hidden_state"],
            )

        for adapter in ADAPTERS:
            found = judged(outputs, cases, adapter, "float32", "float16" if tf32 else "float32")
            errors = [item.error.max for item in found if item.error is not None]
            targets = [item.target_error.max for item in found if item.target_error is not None]
            figure(
                f"{'TF32' if tf32 else 'float32'}, {adapter}: e(O) up to {max(errors, default=np.nan):.1e}, "
                f"e(T) up to {max(targets, default=np.nan):.1e}"
            )
            assert [item.verdict for item in found] == [Verdict.PASS] * len(cases), [item.reasons for item in found]


def test_the_option_reaches_the_gpu(swappable: Exported, cases: list[dict[str, np.ndarray]], gpu: Provider) -> None:
    outputs = []
    for tf32 in (False, True, False):
        with AdapterSession(swappable.bundle, provider=gpu, tf32=tf32) as session:
            outputs.append(session.run(cases[-1], "lora")["last_hidden_state"])
    off, on, off_again = outputs
    assert off.tobytes() == off_again.tobytes()
    assert off.tobytes() != on.tobytes()


@pytest.mark.usefixtures("few_shapes")
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize(
    ("kind", "mode"), [("classifier_with", "swappable"), ("classifier_with", "bank"), ("decoder_with", "swappable")]
)
def test_half_precision_passes_parity(
    kind: str, mode: str, dtype: str, provider: Provider, figure: Callable[[str], None], request: pytest.FixtureRequest
) -> None:
    """Also in a bank, whose stacks of bfloat16 are copied to the device by another call than others."""
    exported: Exported = request.getfixturevalue(kind)(mode=mode, dtype=dtype)
    if provider.on_host and dtype == "bf16":
        pytest.skip("a rehearsal: ONNX Runtime's CPU provider has no operators for bfloat16")
    report = check_parity(exported.bundle, exported.base, exported.adapters, provider=provider)
    assert_passes(report, provider, figure)
