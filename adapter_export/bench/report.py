"""Runs all benchmarks of one or two bundles."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapter_export.bench.latency import Comparison, Latency, measure
from adapter_export.bench.memory import Memory, memory_of
from adapter_export.bench.settings import Settings
from adapter_export.bench.subject import Subject
from adapter_export.bench.swaps import Swap, swaps
from adapter_export.bundle.manifest import Manifest
from adapter_export.errors import InputError

# Names of the two bundles in the report.
BUNDLE, AGAINST = "bundle", "against"


@dataclass(frozen=True)
class BenchReport:
    """The measurements of one or two bundles.

    Attributes:
        folders: Folders of the bundles, by BUNDLE and AGAINST.
        manifests: Their manifests, by BUNDLE and AGAINST.
        settings: What was measured.
        latency: Times of all runs.
        comparisons: Ratios between the two bundles; empty for one bundle.
        swaps: Times of swapping adapters.
        memory: Memory of the bundles, by BUNDLE and AGAINST.
    """

    folders: Mapping[str, Path]
    manifests: Mapping[str, Manifest]
    settings: Settings
    latency: list[Latency]
    comparisons: list[Comparison]
    swaps: list[Swap]
    memory: Mapping[str, Memory]


def bench(
    bundle: str | Path,
    against: str | Path | None = None,
    settings: Settings | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> BenchReport:
    """Measures the latency, the swaps and the memory of a bundle, or of two bundles in the same rounds.

    Args:
        bundle: Folder of the bundle.
        against: Folder of a second bundle to compare with; None for none.
        settings: What to measure; None for the default settings.
        progress: Called with the number of shapes done and their total.

    Raises:
        InputError: A bundle is broken, the bundles cannot be compared, or a model does not have enough positions for a
            length.
    """
    settings = settings or Settings()
    folders = {BUNDLE: Path(bundle)} | ({} if against is None else {AGAINST: Path(against)})
    subjects = {name: Subject(folder, settings.provider, settings.threads) for name, folder in folders.items()}
    try:
        if against is not None:
            _check_alike(subjects[BUNDLE], subjects[AGAINST])
        latency, comparisons = measure(subjects, settings, progress)
        swapped = [swap for name, subject in subjects.items() for swap in swaps(name, subject, settings)]
    finally:
        for subject in subjects.values():
            subject.session.close()
    return BenchReport(
        folders,
        {name: subject.manifest for name, subject in subjects.items()},
        settings,
        latency,
        comparisons,
        swapped,
        {name: memory_of(folder, settings.provider, settings.threads) for name, folder in folders.items()},
    )


def _check_alike(one: Subject, other: Subject) -> None:
    if one.stages != other.stages or one.maker.takes_lengths != other.maker.takes_lengths:
        raise InputError(
            f"--against {other.bundle}: its graph ({', '.join(other.stages)}; task {other.manifest.task}) cannot be "
            f"measured beside that of {one.bundle} ({', '.join(one.stages)}; task {one.manifest.task})"
        )


def as_dict(report: BenchReport) -> dict[str, Any]:
    """Returns the report as one JSON object: ratios with their 95% bounds, times in milliseconds, memory in bytes."""
    return {
        **{name: _described(report.folders[name], manifest) for name, manifest in report.manifests.items()},
        "provider": report.settings.provider,
        "threads": report.settings.threads,
        "cores": os.cpu_count(),
        "latency": [_flat(item) for item in report.latency],
        "comparisons": [_flat(item) for item in report.comparisons],
        "swaps": [asdict(item) for item in report.swaps],
        "memory": {name: asdict(memory) for name, memory in report.memory.items()},
    }


def _described(folder: Path, manifest: Manifest) -> dict[str, Any]:
    return {
        "folder": folder,
        "mode": manifest.mode,
        "task": manifest.task,
        "dtype": manifest.dtype,
        "quantize": manifest.quantize,
        "fuse": manifest.fuse,
        "adapters": [info.name for info in manifest.adapters],
    }


def _flat(item: Latency | Comparison) -> dict[str, Any]:
    fields = asdict(item)
    return {**fields.pop("shape"), **fields}
