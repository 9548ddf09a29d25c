"""Benchmarks of a bundle, or of two side by side, as one object."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapter_export.benchmarking.bench_target import BenchTarget
from adapter_export.benchmarking.latency import BenchComparison, BenchLatency, measure
from adapter_export.benchmarking.memory import BenchMemory, memory_of
from adapter_export.benchmarking.settings import BenchSettings
from adapter_export.benchmarking.swaps import BenchSwap, swaps
from adapter_export.bundle.manifest import Manifest
from adapter_export.errors import InputError
from adapter_export.machine import Machine, this_machine
from adapter_export.outputs.ownership import MANIFEST
from adapter_export.reading.hashes import sha256

# How the two bundles are called, whatever their folders are.
BUNDLE, AGAINST = "bundle", "against"


@dataclass(frozen=True)
class BenchReport:
    """What was measured of one bundle or of two.

    Attributes:
        folders: Folder of each bundle, by `bundle` and `against`.
        manifests: Manifest of each bundle.
        settings: What was to be measured.
        latency: Times of the runs.
        comparisons: The other bundle's runs against the first one's; empty for one bundle.
        swaps: Times to bring adapters into a session; empty for bundles whose adapter is in the graph.
        memory: Memory of each bundle.
        machine: What was measured on.
        hashes: SHA-256 of the manifest of each bundle, which has those of all its files.
    """

    folders: Mapping[str, Path]
    manifests: Mapping[str, Manifest]
    settings: BenchSettings
    latency: tuple[BenchLatency, ...]
    comparisons: tuple[BenchComparison, ...]
    swaps: tuple[BenchSwap, ...]
    memory: Mapping[str, BenchMemory]
    machine: Machine
    hashes: Mapping[str, str]


def bench(
    bundle: str | Path,
    against: str | Path | None = None,
    *,
    batches: Sequence[int] = BenchSettings.batches,
    lengths: Sequence[int] = BenchSettings.lengths,
    repeats: int | None = BenchSettings.repeats,
    seconds: float = BenchSettings.seconds,
    threads: int | None = BenchSettings.threads,
    provider: str = BenchSettings.provider,
    progress: Callable[[int, int], None] | None = None,
) -> BenchReport:
    """Measures the latency of a bundle, how long it takes to swap adapters, and its memory.

    Args:
        bundle: Folder of the bundle.
        against: Folder of another bundle, which is measured in the same rounds and compared with the first.
        batches: Numbers of rows, each measured with each length.
        lengths: Numbers of tokens of the longest row.
        repeats: Number of rounds at each batch and length; None for as many as fit in `seconds`.
        seconds: Time for each batch and length.
        threads: Number of threads of ONNX Runtime's operators; None for its own choice.
        provider: `cpu` or `cuda`.
        progress: Called with the number of finished shapes and the number of all shapes.

    Returns:
        Everything that was measured.

    Raises:
        InputError: A bundle is broken, the two do different things, a model has no positions for a length, or a number
            is out of range.
        ProviderError: The provider is not available.
    """
    settings = BenchSettings(tuple(batches), tuple(lengths), repeats, seconds, threads, provider)
    folders = {BUNDLE: Path(bundle)} | ({} if against is None else {AGAINST: Path(against)})
    targets = {name: BenchTarget(folder, settings.provider, settings.threads) for name, folder in folders.items()}
    try:
        hashes = {name: sha256(folder / MANIFEST) for name, folder in folders.items()}
        if against is not None:
            _check_alike(targets[BUNDLE], targets[AGAINST])
        latency, comparisons = measure(targets, settings, progress or (lambda _done, _total: None))
        swapped = [swap for name, target in targets.items() for swap in swaps(name, target, settings)]
    finally:
        for target in targets.values():
            target.session.close()
    return BenchReport(
        folders,
        {name: target.manifest for name, target in targets.items()},
        settings,
        tuple(latency),
        tuple(comparisons),
        tuple(swapped),
        {name: memory_of(folder, settings.provider, settings.threads) for name, folder in folders.items()},
        this_machine(),
        hashes,
    )


def _check_alike(one: BenchTarget, other: BenchTarget) -> None:
    if one.stages != other.stages or one.maker.takes_lengths != other.maker.takes_lengths:
        raise InputError(
            f"--against {other.bundle}: its graph ({', '.join(other.stages)}; task {other.manifest.task}) cannot be "
            f"measured beside that of {one.bundle} ({', '.join(one.stages)}; task {one.manifest.task})"
        )


def as_dict(report: BenchReport) -> dict[str, Any]:
    """Returns the report as an object for JSON: ratios and their 95% bounds, milliseconds, bytes."""
    return {
        **{
            name: _described(report.folders[name], manifest, report.hashes[name])
            for name, manifest in report.manifests.items()
        },
        "provider": report.settings.provider,
        "threads": report.settings.threads,
        "cores": report.machine.cores,
        "machine": asdict(report.machine),
        "latency": [_flat(item) for item in report.latency],
        "comparisons": [_flat(item) for item in report.comparisons],
        "swaps": [asdict(item) for item in report.swaps],
        "memory": {name: asdict(memory) for name, memory in report.memory.items()},
    }


def _described(folder: Path, manifest: Manifest, digest: str) -> dict[str, Any]:
    return {
        "folder": folder,
        "manifest_sha256": digest,
        "mode": manifest.mode,
        "task": manifest.task,
        "dtype": manifest.dtype,
        "quantize": manifest.quantize,
        "fuse": manifest.fuse,
        "adapters": [info.name for info in manifest.adapters],
    }


def _flat(item: BenchLatency | BenchComparison) -> dict[str, Any]:
    fields = asdict(item)
    return {**fields.pop("shape"), **fields}
