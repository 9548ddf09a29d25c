"""Grafts into graphs of half precision, as GenAI's builder makes them for CUDA. The CPU provider runs float16, too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from adapter_export import DType, graft
from adapter_export.bundle.adapter_file import read_adapter_file
from tests.finished import ADAPTERS, Finished, given, swapped

# A few roundings to float16, relative to the largest output.
TOLERANCE = 2**-7


def test_adapters_have_the_dtype_of_the_graph(finished: Callable[..., Finished], tmp_path: Path) -> None:
    made = finished("fp16-cuda", "llama")
    manifest = graft(made.graph, made.adapters, tmp_path / "bundle", model=made.model)
    assert manifest.dtype == DType.FLOAT16
    for name in ADAPTERS:
        tensors = read_adapter_file(tmp_path / "bundle/adapters" / f"{name}.onnx_adapter")
        assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float16)}
    plain = made.expected(None, given(made, "llama"))
    for name, found, wanted, _ in swapped(made, tmp_path / "bundle", "llama"):
        assert np.abs(found - wanted).max() < TOLERANCE * np.abs(wanted).max(), name
        if name is not None:
            assert np.abs(plain - wanted).max() > 10 * TOLERANCE * np.abs(wanted).max(), name


def test_bfloat16_is_written_for_cuda_though_the_cpu_cannot_run_it(
    finished: Callable[..., Finished], tmp_path: Path
) -> None:
    made = finished("bf16-cuda", "llama")
    manifest = graft(made.graph, made.adapters, tmp_path / "bundle", model=made.model)
    assert manifest.dtype == DType.BFLOAT16
    tensors = read_adapter_file(tmp_path / "bundle/adapters/houlsby.onnx_adapter")
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"bfloat16"}
