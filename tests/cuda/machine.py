"""Whether tests can run on a GPU here, and what the machine is."""

from __future__ import annotations

import os
import platform
import sys
from functools import cache

import numpy as np
import onnxruntime as ort

from adapter_export.providers import Provider

# `CUDA_TESTS_ON=cpu` runs the same tests on the CPU, before there is a GPU: all but what only a GPU has.
REHEARSAL = "CUDA_TESTS_ON"


def rehearsing() -> bool:
    """Whether the tests run on the CPU."""
    return os.environ.get(REHEARSAL) == Provider.CPU


@cache
def torch_has_cuda() -> bool:
    """Whether PyTorch sees a GPU."""
    import torch

    return torch.cuda.is_available()


@cache
def why_not_on_gpu() -> str | None:
    """Why ONNX Runtime does not compute on a GPU here, in one line; None where it does.

    By the session of a graph of one node, as the list of available providers names CUDA on machines without a GPU.
    """
    from onnx import TensorProto, helper

    # PyTorch brings the libraries of CUDA, which ONNX Runtime finds once they are loaded.
    seen = torch_has_cuda()
    if Provider.CUDA.execution_provider not in (available := ort.get_available_providers()):
        return f"no GPU: this build of ONNX Runtime has only {', '.join(available)}"
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "one", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=Provider.CUDA.session_providers(), enable_fallback=False
        )
    except Exception as error:  # a driver without a GPU
        return f"no GPU: {' '.join(str(error).split())[-300:]}"
    if (first := session.get_providers()[0]) != Provider.CUDA.execution_provider:
        return f"no GPU: ONNX Runtime runs on {first}, and PyTorch sees {'a GPU' if seen else 'none'}"
    (found,) = session.run(None, {"x": np.array([-1, 2], np.float32)})
    return None if found.tolist() == [0, 2] else f"a GPU that gives relu([-1, 2]) = {found.tolist()}"


def described() -> str:
    """The machine and the versions, for the lines above the figures."""
    import torch

    gpu = torch.cuda.get_device_name() if torch_has_cuda() else "no GPU that PyTorch sees"
    versions = f"Python {platform.python_version()}, ONNX Runtime {ort.__version__}, PyTorch {torch.__version__}"
    return f"{gpu}; {os.cpu_count()} cores, {sys.platform}; {versions}"
