"""What ONNX Runtime is opened with: its log, as a caller chose it, and the options of a GPU."""

from __future__ import annotations

from typing import Any

import onnxruntime as ort
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as status

from adapter_export.bundle.graphs import MODEL
from adapter_export.errors import InputError, ProviderError
from adapter_export.runtime.provider import open_model, run_errors
from adapter_export.runtime.session import AdapterSession
from tests.bundles import Exported


@pytest.mark.parametrize(("level", "warned"), [(None, False), (3, False), (2, True)])
def test_a_callers_options_are_quiet_unless_they_have_a_level(
    swappable_bundle: Exported, capfd: pytest.CaptureFixture[str], level: int | None, warned: bool
) -> None:
    """Options of the caller's brought a warning for every adapter tensor."""
    options = ort.SessionOptions()
    if level is not None:
        options.log_severity_level = level
    AdapterSession(swappable_bundle.bundle, options=options).close()
    assert ("appears in graph inputs" in capfd.readouterr().err) is warned
    assert options.log_severity_level == (-1 if level is None else level), "they are the caller's"


@pytest.mark.parametrize(("given", "option"), [({}, "0"), ({"tf32": False}, "0"), ({"tf32": True}, "1")])
def test_onnx_runtime_is_given_the_options_of_cuda_and_no_fallback(
    swappable_bundle: Exported, monkeypatch: pytest.MonkeyPatch, given: dict[str, bool], option: str
) -> None:
    """The session itself is opened on the CPU, as there may be no GPU here: so it is refused."""
    asked: list[Any] = []
    opened = ort.InferenceSession

    def on_cpu(path: str, options: ort.SessionOptions, *, providers: list[Any], enable_fallback: bool) -> Any:
        asked.append((providers, enable_fallback))
        return opened(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(ort, "InferenceSession", on_cpu)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(ProviderError) as error:
        open_model(swappable_bundle.bundle / MODEL, "cuda", **given)
    assert asked == [([("CUDAExecutionProvider", {"use_tf32": option}), "CPUExecutionProvider"], False)]
    assert str(error.value) == (
        "provider 'cuda': the session would run on CPUExecutionProvider, though this build of ONNX Runtime lists "
        "CUDAExecutionProvider; it needs a GPU, its driver, and the CUDA and cuDNN libraries"
    )


def test_a_session_hands_its_tf32_on(swappable_bundle: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def refused(*arguments: Any, **named: Any) -> Any:
        asked.append(named["providers"][0][1])
        raise RuntimeError("not opened")

    monkeypatch.setattr(ort, "InferenceSession", refused)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    for given in ({}, {"tf32": True}):
        with pytest.raises(InputError, match="not opened"):
            AdapterSession(swappable_bundle.bundle, provider="cuda", **given)
    assert asked == [{"use_tf32": "0"}, {"use_tf32": "1"}]


# As ONNX Runtime writes an error of CUDA.
PLACES = (
    "/onnxruntime_src/cuda_call.cc:123 std::conditional_t<THRW, void, Status> CudaCall(ERRTYPE) [with THRW = true] "
)
AROUND = "; GPU=32767 ; hostname=private ; file=/onnxruntime_src/cuda_execution_provider.cc ; line=281 ; expr=x();"


@pytest.mark.parametrize(
    "failure", ["CUDA failure 100: no CUDA-capable device is detected", "CUDNN failure 1001: none"]
)
def test_a_device_that_fails_is_no_fault_of_the_file(
    swappable_bundle: Exported, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    """A GPU that is hidden, for one. The line names neither the host nor places in ONNX Runtime's sources."""

    def failed(*arguments: Any, **named: Any) -> Any:
        raise RuntimeError(f"{PLACES}\n{PLACES} {failure} {AROUND}\n\n")

    monkeypatch.setattr(ort, "InferenceSession", failed)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(ProviderError) as error:
        open_model(swappable_bundle.bundle / MODEL, "cuda")
    needed = "it needs a GPU, its driver, and the CUDA and cuDNN libraries"
    assert str(error.value) == f"provider 'cuda': {failure}; {needed}"


@pytest.mark.parametrize("kind", [RuntimeError, status.Fail, status.RuntimeException])
def test_a_device_that_fails_in_a_run(kind: type[Exception]) -> None:
    with (
        pytest.raises(ProviderError, match=r"^the execution provider failed: CUDA failure 2: out of memory$"),
        run_errors(),
    ):
        raise kind(f"[ONNXRuntimeError] : 1 : FAIL : {PLACES} CUDA failure 2: out of memory {AROUND}")
    with pytest.raises(InputError, match="cannot run these inputs: a tensor is missing"), run_errors():
        raise kind("a tensor is missing")
