"""The entry of the package: checks a bundle with every adapter, at every shape, and by the checks of the whole bundle.

This is what `adapter-export parity` runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from adapter_export.bundle.manifest import Manifest, read_manifest
from adapter_export.checkpoints.weights import weights_sha256
from adapter_export.errors import InputError
from adapter_export.hub import local
from adapter_export.machine import this_machine
from adapter_export.outputs.ownership import MANIFEST
from adapter_export.parity.borders import borders_of
from adapter_export.parity.bundle_records.judge import check_by_record
from adapter_export.parity.bundle_records.provenance import about_bundle
from adapter_export.parity.bundle_records.recorder import CaseRecorder
from adapter_export.parity.bundle_runner import open_bundle_runner
from adapter_export.parity.cases import ParityCase
from adapter_export.parity.checks.agreement import check_record_agreement
from adapter_export.parity.checks.bundle import check_files, check_greedy, check_labels, check_repeats, check_rows
from adapter_export.parity.checks.providers import check_provider
from adapter_export.parity.checks.tokens import check_tokens
from adapter_export.parity.criteria.judge import THRESHOLDS, Verdict
from adapter_export.parity.criteria.measure import Measurement
from adapter_export.parity.criteria.retries import retry_sensitive_cases
from adapter_export.parity.criteria.select import criteria_for
from adapter_export.parity.localizing.departure import ParityDeparture
from adapter_export.parity.localizing.unpaired import unpaired
from adapter_export.parity.notes import cost_notes, general_notes, limit_notes, remove_absent_effects
from adapter_export.parity.pytorch_models import PyTorchModels
from adapter_export.parity.recorded_cases import RecordedCaseRunner
from adapter_export.parity.references.records import Record, RecordedCase, check_record, read_record
from adapter_export.parity.report import ParityReport
from adapter_export.parity.results import Progress, judged, measured_cases
from adapter_export.reading.folders import existing_folder
from adapter_export.reading.hashes import sha256
from adapter_export.reading.json_files import optional_json
from adapter_export.reading.links import follows_links
from adapter_export.runtime.generation.prepare import generates


@follows_links("model", "adapters")
def check_parity(
    bundle: str | Path,
    model: str | Path | None = None,
    adapters: Mapping[str, str | Path] | None = None,
    *,
    provider: str = "cpu",
    progress: Progress | None = None,
    references: str | Path | Mapping[str, str | Path] | None = None,
    record: str | Path | None = None,
    texts: Sequence[str] = (),
    follow_links: bool = False,
) -> ParityReport:
    """Checks a bundle against the model and the adapter checkpoints it was made from, or against records.

    Every adapter of the bundle needs a checkpoint, a record, or both. With records only, torch is not imported. A
    bundle whose files differ from its manifest fails without being run.

    `record` keeps what PyTorch computes, in one file for the whole bundle, unless the verdict is FAIL. With that file
    as `references`, the same cases are judged again, without PyTorch, without the model and without the checkpoints.

    Args:
        bundle: Folder of the bundle.
        model: Folder of the base model; None if every adapter has a record.
        adapters: Checkpoint folders by adapter name.
        provider: `cpu` or `cuda`.
        progress: Called with the number of finished cases and the number of all cases.
        references: The file that `record` wrote; or files of records by adapter name, see `parity.recording`.
        record: File to write; it is replaced if it exists.
        texts: Texts to judge besides random ones, each as a case of its own.
        follow_links: Whether symbolic links in the folders of the model and of the adapters may lead out of them.

    Returns:
        The verdicts with their reasons and numbers.

    Raises:
        InputError: An adapter is in the bundle but not among the arguments, or the reverse; the base model is another
            one than that of the bundle; or a record was made with other weights or of another bundle.
        ProviderError: The provider is not available.
    """
    folder = Path(bundle)
    if isinstance(references, str | Path):
        _check_alone(references, model, adapters, record, texts)
        return check_by_record(folder, Path(references), provider=provider, progress=progress)
    manifest = read_manifest(folder)
    if manifest.dtype not in THRESHOLDS:
        raise InputError(f"bundle {folder}: dtype {manifest.dtype!r}: expected one of {', '.join(THRESHOLDS)}")
    references = references or {}
    model = None if model is None else Path(local(model, "model"))
    adapters = {name: local(path, "adapter") for name, path in (adapters or {}).items()}
    _check_names(folder, manifest, model, adapters, references)
    if (missing := sorted({info.name for info in manifest.adapters} - {*adapters})) and record is not None:
        raise InputError(f"--record: expected --adapter {missing[0]}=DIR, as PyTorch must run each adapter")
    if model is not None:
        _check_base(model, manifest)
    records = {name: read_record(path, name) for name, path in references.items()}
    for name, adapter_record in records.items():
        check_record(adapter_record, manifest, manifest.adapter(name))
    files = check_files(manifest, folder)
    report = ParityReport(folder, manifest.mode, manifest.task, manifest.dtype, provider, (files,))
    digest = sha256(folder / MANIFEST)
    report = replace(report, machine=this_machine(), manifest=manifest, manifest_sha256=digest)
    if files.verdict is Verdict.FAIL:
        return report
    models = PyTorchModels(model, folder, manifest, adapters, texts) if model is not None else None
    recorder = None if record is None else CaseRecorder(manifest)
    report = _judged(report, manifest, models, records, recorder, progress)
    report = replace(report, departure=_departure(report, manifest, models))
    if record is not None and recorder and models and report.verdict is not Verdict.FAIL:
        recorder.save(Path(record), about_bundle(manifest, models, adapters, recorder, report))
    return report


def _judged(
    report: ParityReport,
    manifest: Manifest,
    models: PyTorchModels | None,
    records: Mapping[str, Record],
    recorder: CaseRecorder | None,
    progress: Progress | None,
) -> ParityReport:
    """Returns the report of a bundle whose files are right, with all checks and cases."""
    folder, own = report.bundle, models.adapters if models else {}
    names = [info.name for info in manifest.adapters]
    checks = [*report.checks, check_labels(manifest, own, _witnessed_labels(manifest, models, records))]
    if models:
        checks += [
            check_tokens(models.folder, folder, manifest),
            *models.checks(),
            *(check_record_agreement(models.own, own[name], records[name]) for name in own if name in records),
        ]
    with open_bundle_runner(folder, manifest, own, report.provider) as runner:
        recorded = RecordedCaseRunner(manifest, runner, records)
        if models:
            models.attach(runner)

        def run(case: ParityCase, draw: int = 0, roundings: int = 1) -> Mapping[tuple[str, str], Measurement]:
            if isinstance(case, RecordedCase):
                return recorded.run(case)
            assert models is not None
            return models.run(case, draw, roundings, recorder)

        measured = measured_cases([*(models.cases if models else ()), *recorded.cases], run, progress)
        criteria = criteria_for(manifest)
        retry_notes = retry_sensitive_cases(measured, criteria, run)
        repeat_inputs = models.repeat_inputs() if models else recorded.repeat_inputs()
        checks.append(check_repeats(runner, repeat_inputs, names))
        if models:
            row_inputs = models.row_check_inputs()
            checks.append(check_rows(manifest, runner, row_inputs, names))
            if recorder:
                recorder.keep_checks(repeat_inputs, row_inputs)
    placement, check = check_provider(folder, report.provider, repeat_inputs, next(iter(names), None))
    checks.append(check)
    effect_notes = remove_absent_effects(measured)
    results = judged(measured, criteria)
    if models and generates(manifest):
        checks.append(check_greedy(results))
    return replace(
        report,
        checks=tuple(checks),
        results=tuple(results),
        witnesses=_witness_names(models, records),
        judged_to=_judged_to(folder, manifest, models, records),
        notes=(
            *general_notes(manifest, [name for name in records if name not in own]),
            *limit_notes(models.limits if models else None),
            *retry_notes,
            *effect_notes,
            *cost_notes(manifest, measured),
        ),
        placement=placement,
        # Again, with the libraries that were imported on the way.
        machine=this_machine(),
    )


def _departure(report: ParityReport, manifest: Manifest, models: PyTorchModels | None) -> ParityDeparture | None:
    """Returns where the bundle departs from PyTorch; None if no case failed."""
    if models is None:
        return unpaired(report.bundle, report.results)
    from adapter_export.parity.localizing.locate import locate

    return locate(report, manifest, models)


def _check_alone(
    references: str | Path,
    model: str | Path | None,
    adapters: Mapping[str, str | Path] | None,
    record: str | Path | None,
    texts: Sequence[str],
) -> None:
    """Raises InputError if there is anything besides the record of a bundle, which has all that a check needs."""
    given = {"--model": model, "--adapter": adapters, "--record": record, "--text": texts}
    if extra := [option for option, value in given.items() if value]:
        raise InputError(f"{extra[0]}: cannot be used with --reference {references}, which has all cases of a bundle")


def _judged_to(
    folder: Path, manifest: Manifest, models: PyTorchModels | None, records: Mapping[str, Record]
) -> int | None:
    """Returns the length in tokens of the longest checked text; None if the model has no longer texts and no borders
    beyond it."""
    lengths = [models.limits.checked_length] if models and models.limits else []
    only_recorded = [record for name, record in records.items() if models is None or name not in models.adapters]
    if "input_ids" in manifest.graphs[next(iter(manifest.graphs))].inputs:
        longest = manifest.longest_text or 0
        borders = borders_of(optional_json(folder / "config.json"))
        recorded = [max(case.length for case in record.cases.values()) for record in only_recorded]
        lengths += [length for length in recorded if length < max(longest, *borders, 0)]
    return min((length for length in lengths if length is not None), default=None)


def _check_names(
    folder: Path,
    manifest: Manifest,
    model: str | Path | None,
    adapters: Mapping[str, object],
    references: Mapping[str, object],
) -> None:
    """Raises InputError if the names of the adapters in the bundle and among the arguments differ."""
    in_bundle, in_arguments = {info.name for info in manifest.adapters}, {*adapters, *references}
    if missing := sorted(in_bundle - in_arguments):
        raise InputError(
            f"bundle {folder}: holds adapter {missing[0]!r}: expected --adapter {missing[0]}=DIR or --reference "
            f"{missing[0]}=FILE for it"
        )
    for option, names in (("--adapter", adapters), ("--reference", references)):
        if extra := sorted(set(names) - in_bundle):
            known = ", ".join(sorted(in_bundle)) or "none"
            raise InputError(f"{option} {extra[0]}: not in bundle {folder} (it has: {known})")
    if adapters and model is None:
        raise InputError(f"--adapter {min(adapters)}: expected --model DIR, the base model it belongs to")
    if model is None and not references:
        raise InputError(
            "expected --model DIR, or --reference NAME=FILE for every adapter of the bundle; found neither"
        )


def _check_base(model: str | Path, manifest: Manifest) -> None:
    """Raises InputError if the weights of the base model are not those from which the bundle was made.

    Of a graft without a model folder, they are not known: whether the graph has these weights is what is checked.
    """
    if manifest.graft is not None and not manifest.base.sha256:
        return
    actual = weights_sha256(existing_folder(model, "model"))
    if actual != manifest.base.sha256:
        raise InputError(
            f"model {model}: weights are {actual[:12]}..., but the bundle was made from {manifest.base.sha256[:12]}..."
        )


def _witness_names(models: PyTorchModels | None, records: Mapping[str, Record]) -> dict[str, str]:
    """Returns the witness of each adapter by name, in words for the report."""
    names = dict(models.witnesses.names) if models else {}
    return {**names, **{name: f"recorded by {record.witness}" for name, record in records.items()}}


def _witnessed_labels(
    manifest: Manifest, models: PyTorchModels | None, records: Mapping[str, Record]
) -> dict[str, tuple[str, ...]]:
    """Returns class names by adapter, as the witnesses read them.

    Adapters without class names are left out, and those whose class names the user chose at export.
    """
    subjects = models.witnesses.subjects if models else {}
    names = {name: tuple(subject.labels) for name, subject in subjects.items() if subject.labels}
    names |= {name: record.labels for name, record in records.items() if record.labels}
    return {name: labels for name, labels in names.items() if not manifest.adapter(name).labels_given}
