"""Judges a bundle by its record, with numpy and ONNX Runtime alone: the whole bundle, or one case of one adapter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from adapter_export.bundle.manifest import Manifest, read_manifest
from adapter_export.machine import this_machine
from adapter_export.outputs.ownership import MANIFEST
from adapter_export.parity.bundle_records.about import About
from adapter_export.parity.bundle_records.belongs import check_belongs
from adapter_export.parity.bundle_records.cases import BundleRecordCases
from adapter_export.parity.bundle_records.reader import BundleRecord, read_bundle_record
from adapter_export.parity.bundle_runner import open_bundle_runner
from adapter_export.parity.cases import GreedyCase
from adapter_export.parity.checks.bundle import (
    check_files,
    check_greedy,
    check_repeats,
    check_rows,
    check_stated_labels,
)
from adapter_export.parity.checks.providers import check_provider
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.criteria.retries import retry_sensitive_cases
from adapter_export.parity.criteria.select import Criteria, criteria_for
from adapter_export.parity.localizing.unpaired import unpaired
from adapter_export.parity.notes import cost_notes, general_notes, remove_absent_effects
from adapter_export.parity.report import ParityCheck, ParityReport
from adapter_export.parity.results import Progress, judged, measured_cases
from adapter_export.reading.hashes import sha256


def check_by_record(
    bundle: Path, record_file: Path, *, provider: str = "cpu", progress: Progress | None = None
) -> ParityReport:
    """Checks a bundle against a record of what PyTorch computes for it.

    Args:
        bundle: Folder of the bundle.
        record_file: The record, see `bundle_records`.
        provider: `cpu` or `cuda`.
        progress: Called with the number of finished cases and the number of all cases.

    Returns:
        The verdicts with their reasons and numbers.

    Raises:
        InputError: The record is broken, or is one of another model, other adapters or other tokenizer files.
        ProviderError: The provider is not available.
    """
    manifest, record = read_manifest(bundle), read_bundle_record(record_file)
    check_belongs(record, bundle, manifest)
    names = [info.name for info in manifest.adapters]
    about, files = record.about, check_files(manifest, bundle)
    report = ParityReport(bundle, manifest.mode, manifest.task, manifest.dtype, provider, (files,))
    digest = sha256(bundle / MANIFEST)
    report = replace(report, machine=this_machine(), manifest=manifest, manifest_sha256=digest)
    if files.verdict is Verdict.FAIL:
        return report
    checks = [files, check_recorded_labels(manifest, about), *recorded_checks(about)]
    with open_bundle_runner(bundle, manifest, {}, provider) as runner:
        cases = BundleRecordCases(record, manifest, runner)
        measured = measured_cases(record.cases, cases.run, progress)
        criteria = criteria_without_pytorch(manifest)
        retry_notes = retry_sensitive_cases(measured, criteria, lambda case, _, roundings: cases.run(case, roundings))
        repeat_inputs = cases.check_inputs("swap")
        checks.append(check_repeats(runner, repeat_inputs, names))
        checks.append(check_rows(manifest, runner, cases.check_inputs("rows"), names))
    placement, check = check_provider(bundle, provider, repeat_inputs, next(iter(names), None))
    checks.append(check)
    effect_notes = remove_absent_effects(measured)
    results = judged(measured, criteria)
    if any(isinstance(case, GreedyCase) for case in record.cases):
        checks.append(check_greedy(results))
    return replace(
        report,
        checks=tuple(checks),
        results=tuple(results),
        witnesses={name: about.adapters[name].witness for name in names},
        judged_to=about.judged_to,
        notes=(
            *record_notes(record),
            *general_notes(manifest),
            *about.notes,
            *retry_notes,
            *effect_notes,
            *cost_notes(manifest, measured),
        ),
        placement=placement,
        machine=this_machine(),
        departure=unpaired(bundle, results),
    )


def criteria_without_pytorch(manifest: Manifest) -> Criteria:
    """Returns the criteria of a bundle, without new inputs for a case: there is nothing to compute R for them."""
    return replace(criteria_for(manifest), needs_new_inputs=lambda measurements: [False for _ in measurements])


def check_recorded_labels(manifest: Manifest, about: About) -> ParityCheck:
    """Checks class names, their order and the kind of problem against those of the record."""
    recorded = {info.name: about.adapters[info.name] for info in manifest.adapters}
    headed = {name: item for name, item in recorded.items() if item.labels is not None}
    return check_stated_labels(
        manifest,
        {name: item.labels for name, item in headed.items() if item.labels is not None},
        {name: item.witnessed_labels for name, item in recorded.items() if item.witnessed_labels is not None},
        {name: item.problem_type for name, item in headed.items()},
    )


def recorded_checks(about: About) -> Iterator[ParityCheck]:
    """Yields the checks that need PyTorch or transformers, with their results when the record was made.

    They do not depend on the graphs, and the files that they read are the same, see `belongs`.
    """
    for check in about.checks:
        yield ParityCheck(check.name, check.verdict, f"recorded: {check.detail}")


def record_notes(record: BundleRecord) -> Iterator[str]:
    """Yields notes on who made the record, and on what it has not."""
    about = record.about
    versions = ", ".join(f"{name} {number}" for name, number in about.versions.items())
    yield f"judged by {record.path}, recorded {about.created} with {versions}"
    for output, width in about.columns.items():
        yield f"{output}: judged at {len(record.columns.numbers[output]):,} of {width:,} columns"
