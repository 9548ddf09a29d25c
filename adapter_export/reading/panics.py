"""Failures of libraries written in Rust that pass every `except Exception`."""

from __future__ import annotations


def is_panic(error: BaseException) -> bool:
    """Whether a library in Rust (tokenizers, safetensors) gave up: pyo3 raises its PanicException, whose class nobody
    can import, as a BaseException."""
    return type(error).__name__ == "PanicException" and type(error).__module__ == "pyo3_runtime"
