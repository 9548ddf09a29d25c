"""adapter-export: trained adapters to production inference.

    train(model, method, task, train, output)   a checkpoint folder
    merge(model, adapter, output)               a model folder with the adapter folded in
    export_onnx(model, adapters, output, mode=) a bundle
    add_adapter(bundle, adapters)               more adapters in a bundle
    remove_adapter(bundle, names)               fewer
    check_parity(bundle, model, adapters)       a report whether the numbers match
    AdapterSession(bundle)                      runs it; needs no torch
    DynamicBatcher(session)                     gathers requests of many callers into its batches
    BundleWatch(session)                        loads anew what `add` replaces meanwhile
    TextEncoder(bundle, ...), PromptTexts(bundle) texts and prompts to its inputs

What they return (TrainResult, MergeResult, Manifest, ParityReport with its Verdict) and raise are names here, too.

Each name is imported when it is first used: `import adapter_export` itself loads nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapter_export.bundle.add import add_adapter
    from adapter_export.bundle.manifest import Manifest, read_manifest
    from adapter_export.bundle.remove import remove_adapter
    from adapter_export.errors import (
        AdapterExportError,
        CannotMerge,
        InputError,
        OutputExists,
        ProviderError,
        Unavailable,
        WrongProcess,
    )
    from adapter_export.export.export import export_onnx
    from adapter_export.merging.merge import MergeResult, merge
    from adapter_export.parity.criteria.judge import Verdict
    from adapter_export.parity.report import ParityReport
    from adapter_export.parity.run import check_parity
    from adapter_export.runtime.adapters.watching import BundleWatch
    from adapter_export.runtime.batching.batcher import DynamicBatcher
    from adapter_export.runtime.generation.texts import PromptTexts
    from adapter_export.runtime.session import AdapterSession
    from adapter_export.runtime.text import TextEncoder, probabilities
    from adapter_export.training.train import TrainResult, train

__all__ = [
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

# Name -> the module it lives in.
_HOMES = {
    "AdapterExportError": "errors",
    "AdapterSession": "runtime.session",
    "BundleWatch": "runtime.adapters.watching",
    "CannotMerge": "errors",
    "DynamicBatcher": "runtime.batching.batcher",
    "InputError": "errors",
    "Manifest": "bundle.manifest",
    "MergeResult": "merging.merge",
    "OutputExists": "errors",
    "ParityReport": "parity.report",
    "PromptTexts": "runtime.generation.texts",
    "ProviderError": "errors",
    "TextEncoder": "runtime.text",
    "TrainResult": "training.train",
    "Unavailable": "errors",
    "Verdict": "parity.criteria.judge",
    "WrongProcess": "errors",
    "add_adapter": "bundle.add",
    "check_parity": "parity.run",
    "export_onnx": "export.export",
    "merge": "merging.merge",
    "probabilities": "runtime.text",
    "read_manifest": "bundle.manifest",
    "remove_adapter": "bundle.remove",
    "train": "training.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
