"""Light parts stay light: what must answer at once imports no framework."""

from __future__ import annotations

import subprocess
import sys

import pytest

FRAMEWORKS = ("torch", "transformers", "onnx", "onnxruntime", "onnx_ir", "onnxscript", "peft", "accelerate")


@pytest.mark.parametrize(
    "code",
    [
        "import adapter_export.checkpoints.folder",
        "import adapter_export.architectures.registry as r; r.facts('bert')",
        "import adapter_export.methods.registry as r; [r.get(name) for name in r.names()]",
        "import adapter_export.modelinfo, adapter_export.sites, adapter_export.tasks, adapter_export.naming",
        "import adapter_export.models.base_model",
        "import adapter_export.models.injection",
    ],
)
def test_no_framework_is_imported(code: str) -> None:
    report = f"{code}\nimport sys\nprint(*[name for name in {FRAMEWORKS!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
