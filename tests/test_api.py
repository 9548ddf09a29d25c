"""The public names of the package."""

from __future__ import annotations

import subprocess
import sys

import pytest

import adapter_export

NAMES = [
    "AdapterExportError",
    "AdapterSession",
    "BundleWatch",
    "CannotMerge",
    "DynamicBatcher",
    "InputError",
    "Manifest",
    "MergeResult",
    "OutputExists",
    "ParityReport",
    "PromptTexts",
    "ProviderError",
    "TextEncoder",
    "TrainResult",
    "Unavailable",
    "Verdict",
    "WrongProcess",
    "add_adapter",
    "check_parity",
    "export_onnx",
    "merge",
    "probabilities",
    "read_manifest",
    "remove_adapter",
    "train",
]


def test_the_public_names() -> None:
    assert adapter_export.__all__ == NAMES
    assert set(NAMES) <= set(dir(adapter_export))


@pytest.mark.parametrize("name", NAMES)
def test_each_is_there_and_says_what_it_does(name: str) -> None:
    value = getattr(adapter_export, name)
    assert value.__name__ == name
    assert value.__doc__
    assert getattr(adapter_export, name) is value


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="module 'adapter_export' has no attribute 'nope'"):
        _ = adapter_export.nope


def test_importing_the_package_loads_nothing() -> None:
    code = "import sys, adapter_export; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "onnx", "onnxruntime", "numpy", "click", "rich", "tokenizers", "safetensors"}
    assert not heavy & set(done.stdout.split())
