"""What a record says about the bundle and the check that it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from adapter_export.bundle.manifest import Manifest
from adapter_export.checkpoints.weights import checkpoint_sha256, weights_sha256
from adapter_export.machine import loaded_versions, now
from adapter_export.parity.bundle_records.about import About, RecordedAdapter, RecordedCheck
from adapter_export.parity.bundle_records.belongs import graph_files, text_files
from adapter_export.parity.bundle_records.recorder import CaseRecorder
from adapter_export.parity.notes import limit_notes
from adapter_export.parity.report import ParityReport

if TYPE_CHECKING:
    from adapter_export.parity.pytorch_models import PyTorchModels

# Checks that need PyTorch or transformers, so that a record repeats what they found.
_PYTORCH_CHECKS = ("tokens", "base", "witness", "record")


def about_bundle(
    manifest: Manifest,
    models: PyTorchModels,
    adapters: Mapping[str, str | Path],
    recorder: CaseRecorder,
    report: ParityReport,
) -> About:
    """Returns what the record of a bundle says about itself.

    Args:
        manifest: The manifest of the bundle.
        models: The models in PyTorch.
        adapters: Checkpoint folders by adapter name.
        recorder: What PyTorch computed.
        report: The result of the check.
    """
    return About(
        created=now(),
        versions=loaded_versions(),
        task=manifest.task,
        dtype=manifest.dtype,
        quantize=manifest.quantize,
        base_sha256=weights_sha256(models.folder),
        graphs=graph_files(manifest),
        text_files=text_files(manifest),
        adapters={name: _adapter(name, Path(path), manifest, models, report) for name, path in adapters.items()},
        base_model=manifest.in_graph is None,
        cases=recorder.cases,
        checks=tuple(
            RecordedCheck(check.name, check.verdict, check.detail)
            for check in report.checks
            if check.name in _PYTORCH_CHECKS
        ),
        notes=tuple(limit_notes(models.limits)),
        judged_to=report.judged_to,
        columns=recorder.widths,
    )


def _adapter(name: str, path: Path, manifest: Manifest, models: PyTorchModels, report: ParityReport) -> RecordedAdapter:
    adapter, subject = models.adapters[name], models.witnesses.subjects.get(name)
    chosen = manifest.adapter(name).labels_given
    return RecordedAdapter(
        source_sha256=checkpoint_sha256(path),
        sha256=manifest.adapter(name).sha256,
        witness=report.witnesses[name],
        labels=None if adapter.num_labels is None else adapter.label_names,
        witnessed_labels=tuple(subject.labels) if subject and subject.labels and not chosen else None,
        problem_type=adapter.problem_type,
    )
