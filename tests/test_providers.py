"""What a session is opened with on each provider."""

from __future__ import annotations

import pytest

from adapter_export.providers import Provider

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@pytest.mark.parametrize(
    ("provider", "tf32", "expected"),
    [
        (Provider.CPU, False, [CPU]),
        (Provider.CUDA, False, [(CUDA, {"use_tf32": "0"}), CPU]),
        (Provider.CUDA, True, [(CUDA, {"use_tf32": "1"}), CPU]),
    ],
)
def test_the_providers_of_a_session(provider: Provider, tf32: bool, expected: list[object]) -> None:
    assert provider.session_providers(tf32=tf32) == expected


def test_without_a_word_there_is_no_tf32() -> None:
    """ONNX Runtime's own default is TF32 wherever the GPU has it."""
    assert Provider.CUDA.session_providers() == Provider.CUDA.session_providers(tf32=False)
    assert [provider for provider in Provider if provider.has_tf32] == [Provider.CUDA]


def test_what_a_provider_can_do() -> None:
    assert [provider.on_host for provider in (Provider.CPU, Provider.CUDA)] == [True, False]
    assert [provider.computes_bfloat16 for provider in (Provider.CPU, Provider.CUDA)] == [False, True]
