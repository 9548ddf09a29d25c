"""adapter-export: trained adapters to production inference.

    train(model, method, task, train, output)   a checkpoint folder
    merge(model, adapter, output)               a model folder with the adapter folded in
    export_onnx(model, adapters, output, mode=) a bundle
    graft(graph, adapters, output)              a bundle from a finished graph of another tool
    plan_merge(...), plan_export(...), plan_graft(...) what these would do, and write nothing
    add_adapter(bundle, adapters)               more adapters in a bundle
    remove_adapter(bundle, names)               fewer
    extract_adapter(bundle, name, file)         one of them, for another tool's graph
    check_parity(bundle, model, adapters)       a report whether the numbers match
    bench(bundle)                               its latency, swapping and memory
    inspect(path)                               what a path holds
    load_pytorch(model, adapter)                both in PyTorch, to compare with
    AdapterSession(bundle)                      runs it; needs no torch
    DynamicBatcher(session)                     gathers requests of many callers into its batches
    ContinuousBatcher(session)                  generates for many callers in one batch that rows join and leave
    serve(settings)                             serves it over HTTP
    BundleWatch(session)                        loads anew what `add` replaces meanwhile
    TextEncoder(bundle, ...), PromptTexts(bundle) texts and prompts to its inputs

The classes of what they take, return and raise are names here, too. Paths and what else a function works on may be
given by position; every other argument that has a default is given by its name.

Each name is imported when it is first used: `import adapter_export` itself loads nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapter_export.benchmarking.latency import BenchComparison, BenchLatency, BenchShape
    from adapter_export.benchmarking.memory import BenchMemory
    from adapter_export.benchmarking.report import BenchReport, bench
    from adapter_export.benchmarking.settings import BenchSettings
    from adapter_export.benchmarking.summary import Percentiles, Ratio
    from adapter_export.benchmarking.swaps import BenchSwap
    from adapter_export.bundle.add import add_adapter
    from adapter_export.bundle.foreign_files import extract_adapter
    from adapter_export.bundle.manifest import (
        AdapterInfo,
        AdapterTensorInfo,
        GraftInfo,
        GraphInfo,
        Manifest,
        SiteInfo,
        SiteRole,
        TensorInfo,
        read_manifest,
    )
    from adapter_export.bundle.modes import Binding, Mode
    from adapter_export.bundle.pooling import Pooling, PoolingKind
    from adapter_export.bundle.precision import Fusion, Quantization
    from adapter_export.bundle.remove import remove_adapter
    from adapter_export.checkpoints.planned import AdapterPlan, SitePlan
    from adapter_export.composition import CompositionRule
    from adapter_export.dtypes import DType
    from adapter_export.errors import (
        AdapterExportError,
        CannotMerge,
        InputError,
        OutputBusy,
        OutputExists,
        ProviderError,
        Unavailable,
        WrongProcess,
    )
    from adapter_export.export.dry_run import ExportPlan, plan_export
    from adapter_export.export.export import export_onnx
    from adapter_export.grafting.dry_run import GraftPlan, plan_graft
    from adapter_export.grafting.graft import graft
    from adapter_export.inspection.describe import inspect
    from adapter_export.inspection.descriptions import (
        AdapterDescription,
        AdapterFileDescription,
        AdapterSummary,
        BaseSummary,
        BundleDescription,
        BundleFile,
        Description,
        ExternalFile,
        MergedAdapter,
        ModelBeside,
        ModelDescription,
        NamedTensor,
        OnnxDescription,
        OperatorCount,
        SiteGroup,
        TensorGroup,
        WeightFile,
    )
    from adapter_export.machine import Machine
    from adapter_export.merging.dry_run import MergePlan, TensorPlan, plan_merge
    from adapter_export.merging.merge import MergeResult, merge
    from adapter_export.modelinfo import EmbeddingTable, Kernel, ModelInfo
    from adapter_export.models.pytorch import load_pytorch
    from adapter_export.parity.cases import ParityCase
    from adapter_export.parity.criteria.error_counts import ErrorCounts
    from adapter_export.parity.criteria.judge import Judgement, Verdict
    from adapter_export.parity.criteria.measure import Deviation, TokenAgreement, TokenDifference
    from adapter_export.parity.localizing.departure import ParityCause, ParityDeparture, ParitySiteError
    from adapter_export.parity.page.page import parity_page
    from adapter_export.parity.report import ParityCheck, ParityReport, ParityResult
    from adapter_export.parity.report_tables import print_report
    from adapter_export.parity.run import check_parity
    from adapter_export.runtime.adapters.choice import Composition
    from adapter_export.runtime.adapters.loaded import Lease
    from adapter_export.runtime.adapters.usage import AdapterStatistics
    from adapter_export.runtime.adapters.watching import BundleWatch
    from adapter_export.runtime.batching.batcher import DynamicBatcher
    from adapter_export.runtime.batching.statistics import BatcherStatistics
    from adapter_export.runtime.continuous.batcher import ContinuousBatcher
    from adapter_export.runtime.continuous.statistics import ContinuousStatistics
    from adapter_export.runtime.continuous.stream import NewToken, TokenStream
    from adapter_export.runtime.generation.bound_graph import BoundGraph
    from adapter_export.runtime.generation.config import GenerationConfig
    from adapter_export.runtime.generation.rules import GenerationRules
    from adapter_export.runtime.generation.stream import Completion, Generation, Step
    from adapter_export.runtime.generation.texts import PromptTexts, TextStream
    from adapter_export.runtime.session import AdapterSession
    from adapter_export.runtime.text import EncodedTexts, TextEncoder, probabilities
    from adapter_export.serving.settings import ServerSettings
    from adapter_export.serving.workers import serve
    from adapter_export.training.train import TrainResult, train

__all__ = [
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

# Name -> the module it lives in.
_HOMES = {
    "AdapterDescription": "inspection.descriptions",
    "AdapterExportError": "errors",
    "AdapterFileDescription": "inspection.descriptions",
    "AdapterInfo": "bundle.manifest",
    "AdapterPlan": "checkpoints.planned",
    "AdapterSession": "runtime.session",
    "AdapterStatistics": "runtime.adapters.usage",
    "AdapterSummary": "inspection.descriptions",
    "AdapterTensorInfo": "bundle.manifest",
    "BaseSummary": "inspection.descriptions",
    "BatcherStatistics": "runtime.batching.statistics",
    "BenchComparison": "benchmarking.latency",
    "BenchLatency": "benchmarking.latency",
    "BenchMemory": "benchmarking.memory",
    "BenchReport": "benchmarking.report",
    "BenchSettings": "benchmarking.settings",
    "BenchShape": "benchmarking.latency",
    "BenchSwap": "benchmarking.swaps",
    "Binding": "bundle.modes",
    "BoundGraph": "runtime.generation.bound_graph",
    "BundleDescription": "inspection.descriptions",
    "BundleFile": "inspection.descriptions",
    "BundleWatch": "runtime.adapters.watching",
    "CannotMerge": "errors",
    "Completion": "runtime.generation.stream",
    "Composition": "runtime.adapters.choice",
    "CompositionRule": "composition",
    "ContinuousBatcher": "runtime.continuous.batcher",
    "ContinuousStatistics": "runtime.continuous.statistics",
    "DType": "dtypes",
    "Description": "inspection.descriptions",
    "Deviation": "parity.criteria.measure",
    "DynamicBatcher": "runtime.batching.batcher",
    "EmbeddingTable": "modelinfo",
    "EncodedTexts": "runtime.text",
    "ErrorCounts": "parity.criteria.error_counts",
    "ExportPlan": "export.dry_run",
    "ExternalFile": "inspection.descriptions",
    "Fusion": "bundle.precision",
    "Generation": "runtime.generation.stream",
    "GenerationConfig": "runtime.generation.config",
    "GenerationRules": "runtime.generation.rules",
    "GraftInfo": "bundle.manifest",
    "GraftPlan": "grafting.dry_run",
    "GraphInfo": "bundle.manifest",
    "InputError": "errors",
    "Judgement": "parity.criteria.judge",
    "Kernel": "modelinfo",
    "Lease": "runtime.adapters.loaded",
    "Machine": "machine",
    "Manifest": "bundle.manifest",
    "MergePlan": "merging.dry_run",
    "MergeResult": "merging.merge",
    "MergedAdapter": "inspection.descriptions",
    "Mode": "bundle.modes",
    "ModelBeside": "inspection.descriptions",
    "ModelDescription": "inspection.descriptions",
    "ModelInfo": "modelinfo",
    "NamedTensor": "inspection.descriptions",
    "NewToken": "runtime.continuous.stream",
    "OnnxDescription": "inspection.descriptions",
    "OperatorCount": "inspection.descriptions",
    "OutputBusy": "errors",
    "OutputExists": "errors",
    "ParityCase": "parity.cases",
    "ParityCause": "parity.localizing.departure",
    "ParityCheck": "parity.report",
    "ParityDeparture": "parity.localizing.departure",
    "ParityReport": "parity.report",
    "ParityResult": "parity.report",
    "ParitySiteError": "parity.localizing.departure",
    "Percentiles": "benchmarking.summary",
    "Pooling": "bundle.pooling",
    "PoolingKind": "bundle.pooling",
    "PromptTexts": "runtime.generation.texts",
    "ProviderError": "errors",
    "Quantization": "bundle.precision",
    "Ratio": "benchmarking.summary",
    "ServerSettings": "serving.settings",
    "SiteGroup": "inspection.descriptions",
    "SiteInfo": "bundle.manifest",
    "SitePlan": "checkpoints.planned",
    "SiteRole": "bundle.manifest",
    "Step": "runtime.generation.stream",
    "TensorGroup": "inspection.descriptions",
    "TensorInfo": "bundle.manifest",
    "TensorPlan": "merging.dry_run",
    "TextEncoder": "runtime.text",
    "TextStream": "runtime.generation.texts",
    "TokenAgreement": "parity.criteria.measure",
    "TokenDifference": "parity.criteria.measure",
    "TokenStream": "runtime.continuous.stream",
    "TrainResult": "training.train",
    "Unavailable": "errors",
    "Verdict": "parity.criteria.judge",
    "WeightFile": "inspection.descriptions",
    "WrongProcess": "errors",
    "add_adapter": "bundle.add",
    "bench": "benchmarking.report",
    "check_parity": "parity.run",
    "export_onnx": "export.export",
    "extract_adapter": "bundle.foreign_files",
    "graft": "grafting.graft",
    "inspect": "inspection.describe",
    "load_pytorch": "models.pytorch",
    "merge": "merging.merge",
    "parity_page": "parity.page.page",
    "plan_export": "export.dry_run",
    "plan_graft": "grafting.dry_run",
    "plan_merge": "merging.dry_run",
    "print_report": "parity.report_tables",
    "probabilities": "runtime.text",
    "read_manifest": "bundle.manifest",
    "remove_adapter": "bundle.remove",
    "serve": "serving.workers",
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
