"""The public names of the package."""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import adapter_export

NAMES = [
    "AdapterDescription",
    "AdapterExportError",
    "AdapterFileDescription",
    "AdapterInfo",
    "AdapterPlan",
    "AdapterSession",
    "AdapterStatistics",
    "AdapterSummary",
    "AdapterTensorInfo",
    "BaseSummary",
    "BatcherStatistics",
    "BenchComparison",
    "BenchLatency",
    "BenchMemory",
    "BenchReport",
    "BenchSettings",
    "BenchShape",
    "BenchSwap",
    "Binding",
    "BoundGraph",
    "BundleDescription",
    "BundleFile",
    "BundleWatch",
    "CannotMerge",
    "Completion",
    "Composition",
    "CompositionRule",
    "ContinuousBatcher",
    "ContinuousStatistics",
    "DType",
    "Description",
    "Deviation",
    "DynamicBatcher",
    "EmbeddingTable",
    "EncodedTexts",
    "ErrorCounts",
    "ExportPlan",
    "ExternalFile",
    "Fusion",
    "Generation",
    "GenerationConfig",
    "GenerationRules",
    "GraftInfo",
    "GraftPlan",
    "GraphInfo",
    "InputError",
    "Judgement",
    "Kernel",
    "Lease",
    "Machine",
    "Manifest",
    "MergePlan",
    "MergeResult",
    "MergedAdapter",
    "Mode",
    "ModelBeside",
    "ModelDescription",
    "ModelInfo",
    "NamedTensor",
    "NewToken",
    "OnnxDescription",
    "OperatorCount",
    "OutputBusy",
    "OutputExists",
    "ParityCase",
    "ParityCause",
    "ParityCheck",
    "ParityDeparture",
    "ParityReport",
    "ParityResult",
    "ParitySiteError",
    "Percentiles",
    "Pooling",
    "PoolingKind",
    "PromptTexts",
    "ProviderError",
    "Quantization",
    "Ratio",
    "ServerSettings",
    "SiteGroup",
    "SiteInfo",
    "SitePlan",
    "SiteRole",
    "Step",
    "TensorGroup",
    "TensorInfo",
    "TensorPlan",
    "TextEncoder",
    "TextStream",
    "TokenAgreement",
    "TokenDifference",
    "TokenStream",
    "TrainResult",
    "Unavailable",
    "Verdict",
    "WeightFile",
    "WrongProcess",
    "add_adapter",
    "bench",
    "check_parity",
    "export_onnx",
    "extract_adapter",
    "graft",
    "inspect",
    "load_pytorch",
    "merge",
    "parity_page",
    "plan_export",
    "plan_graft",
    "plan_merge",
    "print_report",
    "probabilities",
    "read_manifest",
    "remove_adapter",
    "serve",
    "train",
]
# Whose methods users call.
WORKING = ("AdapterSession", "BundleWatch", "ContinuousBatcher", "DynamicBatcher", "PromptTexts", "TextEncoder")
# What a function works on may be given by position, also where it has a default.
WORKED_ON = {"adapter", "adapters", "against", "model", "path"}


def test_the_public_names() -> None:
    assert adapter_export.__all__ == NAMES
    assert set(NAMES) <= set(dir(adapter_export))


@pytest.mark.parametrize("name", NAMES)
def test_each_is_there_and_says_what_it_does(name: str) -> None:
    value = getattr(adapter_export, name)
    assert value.__name__ == name
    assert value.__doc__
    # A dataclass without one gets its signature for one.
    assert not value.__doc__.startswith(f"{name}(")
    assert getattr(adapter_export, name) is value


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="module 'adapter_export' has no attribute 'nope'"):
        _ = adapter_export.nope


def test_importing_the_package_loads_nothing() -> None:
    code = "import sys, adapter_export; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "onnx", "onnxruntime", "numpy", "click", "rich", "tokenizers", "safetensors"}
    assert not heavy & set(done.stdout.split())


def test_no_name_is_that_of_a_part() -> None:
    """Whichever is imported first, a name would lead to one or the other."""
    folder = Path(adapter_export.__file__).parent
    parts = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    assert parts & set(NAMES) == set()


def methods(cls: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Public methods and properties of a class, and how one is made."""
    for name, value in vars(cls).items():
        if name.startswith("_") and name != "__init__":
            continue
        if isinstance(value, property):
            yield f"{cls.__name__}.{name}", typing.cast("Callable[..., Any]", value.fget)
        elif isinstance(value, functools.cached_property):
            yield f"{cls.__name__}.{name}", value.func
        elif inspect.isfunction(value):
            yield f"{cls.__name__}.{name}", value


def functions() -> dict[str, Callable[..., Any]]:
    """All public functions, and the methods of the classes that do the work."""
    values = {name: getattr(adapter_export, name) for name in NAMES}
    found = {name: value for name, value in values.items() if inspect.isfunction(value)}
    return found | {name: value for cls in WORKING for name, value in methods(values[cls])}


FUNCTIONS = functions()


def test_the_rules_below_see_them() -> None:
    assert {"train", "merge", "export_onnx", "add_adapter", "bench", "inspect"} <= set(FUNCTIONS)
    assert {"AdapterSession.__init__", "AdapterSession.generate", "DynamicBatcher.submit"} <= set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_has_a_default_is_given_by_its_name(name: str) -> None:
    parameters = inspect.signature(FUNCTIONS[name]).parameters.values()
    by_position = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD and one.default != one.empty]
    assert set(by_position) <= WORKED_ON


def hints(value: Any) -> dict[str, Any]:
    """Resolved annotations. Modules name what they import for types only, such as frameworks, and each other."""
    import numpy as np
    import onnxruntime as ort

    known = {"np": np, "ort": ort, "PreTrainedModel": object}
    return typing.get_type_hints(value, localns=known | {name: getattr(adapter_export, name) for name in NAMES})


def classes(hint: Any) -> Iterator[type]:
    """Classes of this package in an annotation."""
    if isinstance(hint, type) and hint.__module__.partition(".")[0] == "adapter_export":
        yield hint
    for part in hint if isinstance(hint, list) else typing.get_args(hint):
        yield from classes(part)


def taken_or_returned() -> Iterator[tuple[str, type]]:
    """Classes that public functions take and return, with all that their fields and methods return."""
    waiting: list[tuple[str, Any]] = list(FUNCTIONS.items())
    seen: set[type] = set()
    for cls in [getattr(adapter_export, name) for name in NAMES if inspect.isclass(getattr(adapter_export, name))]:
        if dataclasses.is_dataclass(cls):
            waiting.append((cls.__name__, cls))
    while waiting:
        where, value = waiting.pop()
        for field, hint in hints(value).items():
            for cls in classes(hint):
                yield f"{where}: {field}", cls
                if cls in seen or issubclass(cls, enum.Enum):
                    continue
                seen.add(cls)
                if dataclasses.is_dataclass(cls):
                    waiting.append((cls.__name__, cls))
                else:
                    waiting += [item for item in methods(cls) if not item[0].endswith("__init__")]


def test_every_class_that_functions_take_or_return_is_public() -> None:
    found = list(taken_or_returned())
    assert len(found) > 40
    assert [(where, cls) for where, cls in found if getattr(adapter_export, cls.__name__, None) is not cls] == []


def test_every_error_is_public() -> None:
    from adapter_export import errors

    raised = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert raised <= set(NAMES)
