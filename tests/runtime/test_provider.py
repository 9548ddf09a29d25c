"""What ONNX Runtime is opened with: its log, as a caller chose it, and the options of a GPU."""

from __future__ import annotations

from typing import Any

import onnxruntime as ort
import pytest

from adapter_export.bundle.graphs import MODEL
from adapter_export.errors import InputError, ProviderError
from adapter_export.runtime.provider import open_model
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
