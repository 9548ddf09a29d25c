"""Grafts into graphs of half precision, as GenAI's builder makes them for CUDA. The CPU provider runs float16, too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort

from adapter_export import DType, graft
from adapter_export.bundle.adapter_file import read_adapter_file
from adapter_export.bundle.graphs import MODEL
from tests.finished import ADAPTERS, Finished, given, session_inputs

# A few roundings to float16, relative to the largest output.
TOLERANCE = 2**-7


def test_adapters_have_the_dtype_of_the_graph(finished: Callable[..., Finished], tmp_path: Path) -> None:
    made = finished("fp16-cuda", "llama")
    manifest = graft(made.graph, made.adapters, tmp_path / "bundle", model=made.model)
    assert manifest.dtype == DType.FLOAT16
    inputs = given(made, "llama")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(tmp_path / "bundle" / MODEL, options, providers=["CPUExecutionProvider"])
    fed = session_inputs(manifest.inputs, inputs)
    plain = made.expected(None, inputs)
    for name in (None, *ADAPTERS, None):
        tensors = {} if name is None else read_adapter_file(tmp_path / "bundle/adapters" / f"{name}.onnx_adapter")
        assert {tensor.dtype for tensor in tensors.values()} <= {np.dtype(np.float16)}
        found, wanted = session.run(None, {**fed, **tensors})[0], made.expected(name, inputs)
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
