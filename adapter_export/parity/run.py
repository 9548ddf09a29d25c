"""`adapter-export parity`: judge every adapter of a bundle at every shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from adapter_export.bundle.manifest import Manifest, read_manifest
from adapter_export.checkpoints.files import existing_folder, optional_json
from adapter_export.checkpoints.weights import weights_sha256
from adapter_export.errors import InputError
from adapter_export.hub import local
from adapter_export.parity.agreement import check_record_agreement
from adapter_export.parity.borders import borders_of
from adapter_export.parity.bundle_checks import check_files, check_greedy, check_labels, check_repeats, check_rows
from adapter_export.parity.bundle_runner import open_bundle_runner
from adapter_export.parity.cases import Case
from adapter_export.parity.criteria import criteria_for
from adapter_export.parity.judge import LIMITS, Verdict
from adapter_export.parity.measure import Measurement
from adapter_export.parity.notes import notes_on, prices, take_unreached
from adapter_export.parity.providers import check_provider
from adapter_export.parity.pytorch_models import PyTorchModels
from adapter_export.parity.recorded_cases import RecordedCaseRunner
from adapter_export.parity.records import Record, RecordedCase, check_record, read_record
from adapter_export.parity.report import ParityReport, Result
from adapter_export.parity.retries import Measured, retry_sensitive_cases
from adapter_export.parity.tokens import check_tokens
from adapter_export.reading.links import follows_links
from adapter_export.runtime.generation.config import read_generation_config
from adapter_export.runtime.generation.start import generates

Progress = Callable[[int, int], None]


@follows_links("model", "adapters")
def check_parity(
    bundle: str | Path,
    model: str | Path | None = None,
    adapters: Mapping[str, str | Path] | None = None,
    provider: str = "cpu",
    progress: Progress | None = None,
    *,
    references: Mapping[str, str | Path] | None = None,
    follow_links: bool = False,
) -> ParityReport:
    """Judge a bundle against the model folder and the adapter checkpoints it was made from, or against records.

    model: the base model's folder; None where every adapter has a record. adapters: checkpoint folders by name.
    references: records by name (see `parity.recording`); judging by them alone imports no torch. Every adapter of the
    bundle needs one of the two. provider: `cpu` or `cuda`. progress: called with (cases done, cases in all). A bundle
    whose files are not those of its manifest fails without being run. follow_links: whether links in the folders of the
    model and the adapters may lead out of them.

    Raises InputError for adapters that only one of `bundle` and the rest has, for another base model, and for a record
    of other weights; ProviderError when the provider is not to be had.
    """
    folder, references = Path(bundle), references or {}
    model = None if model is None else local(model, "model")
    adapters = {name: local(path, "adapter") for name, path in (adapters or {}).items()}
    manifest = read_manifest(folder)
    if manifest.dtype not in LIMITS:
        raise InputError(f"bundle {folder}: dtype {manifest.dtype!r}: expected one of {', '.join(LIMITS)}")
    _check_names(folder, manifest, model, adapters, references)
    if model is not None:
        _check_base(model, manifest)
    records = {name: read_record(path, name) for name, path in references.items()}
    for name, record in records.items():
        check_record(record, manifest, manifest.adapter(name))
    files = check_files(manifest, folder)
    report = ParityReport(folder, manifest.mode, manifest.task, manifest.dtype, provider, (files,))
    if files.verdict is Verdict.FAIL:
        return report

    models = PyTorchModels(model, manifest, adapters) if model is not None else None
    report = replace(report, witnesses=_witnesses(models, records))
    own = models.adapters if models else {}
    checks = [files, check_labels(manifest, own, _named_by(manifest, models, records))]
    if models and model is not None:
        checks += [
            check_tokens(Path(model), folder, manifest),
            *models.checks(),
            *(check_record_agreement(models.own, own[name], records[name]) for name in own if name in records),
        ]
    with open_bundle_runner(folder, manifest, own, provider) as runner:
        recorded = RecordedCaseRunner(manifest, runner, records)
        if models:
            models.open(runner)

        def run(case: Case, draw: int = 0, roundings: int = 1) -> Mapping[tuple[str, str], Measurement]:
            if isinstance(case, RecordedCase):
                return recorded.run(case)
            assert models is not None
            return models.run(case, draw, roundings)

        measured: Measured = {}
        cases = [*(models.cases if models else ()), *recorded.cases]
        for number, case in enumerate(cases):
            if progress:
                progress(number, len(cases))
            for key, item in run(case).items():
                measured.setdefault(key, {})[case] = item
        criteria = criteria_for(manifest)
        retry_notes = retry_sensitive_cases(measured, criteria, run)
        repeated = models.repeated() if models else recorded.repeated()
        names = [info.name for info in manifest.adapters]
        checks.append(check_repeats(runner, repeated, names))
        if models:
            checks.append(check_rows(manifest, runner, models.neighbours(), names))
    placement, check = check_provider(folder, provider, repeated, next((info.name for info in manifest.adapters), None))
    checks.append(check)
    unreached = take_unreached(measured)
    results = [
        Result(adapter, case, output, judgement)
        for (adapter, output), items in measured.items()
        for case, judgement in zip(items, criteria.judge(list(items.values())), strict=True)
    ]
    if models and generates(manifest):
        checks.append(check_greedy(results))
    return replace(
        report,
        checks=tuple(checks),
        results=tuple(results),
        judged_to=_judged_to(folder, manifest, models, records),
        notes=(
            *notes_on(manifest, models.limits if models else None, [name for name in records if name not in own]),
            *retry_notes,
            *unreached,
            *prices(manifest, measured),
        ),
        placement=placement,
    )


def _judged_to(
    folder: Path, manifest: Manifest, models: PyTorchModels | None, records: Mapping[str, Record]
) -> int | None:
    """The longest text judged, where the model takes longer ones or has borders beyond it; else None."""
    found = [models.limits.beyond] if models and models.limits else []
    alone = [record for name, record in records.items() if models is None or name not in models.adapters]
    if "input_ids" in manifest.graphs[next(iter(manifest.graphs))].inputs:
        longest = read_generation_config(folder).max_positions or 0
        borders = borders_of(optional_json(folder / "config.json"))
        reached = [max(case.length for case in record.cases.values()) for record in alone]
        found += [length for length in reached if length < max(longest, *borders, 0)]
    return min((length for length in found if length is not None), default=None)


def _check_names(
    folder: Path,
    manifest: Manifest,
    model: str | Path | None,
    adapters: Mapping[str, object],
    references: Mapping[str, object],
) -> None:
    has, given = {info.name for info in manifest.adapters}, {*adapters, *references}
    if missing := sorted(has - given):
        raise InputError(
            f"bundle {folder}: holds adapter {missing[0]!r}: expected --adapter {missing[0]}=DIR or --reference "
            f"{missing[0]}=FILE for it"
        )
    for option, names in (("--adapter", adapters), ("--reference", references)):
        if extra := sorted(set(names) - has):
            known = ", ".join(sorted(has)) or "none"
            raise InputError(f"{option} {extra[0]}: not in bundle {folder} (it has: {known})")
    if adapters and model is None:
        raise InputError(f"--adapter {min(adapters)}: expected --model DIR, the base model it belongs to")
    if model is None and not references:
        raise InputError(
            "expected --model DIR, or --reference NAME=FILE for every adapter of the bundle; found neither"
        )


def _check_base(model: str | Path, manifest: Manifest) -> None:
    found = weights_sha256(existing_folder(model, "model"))
    if found != manifest.base.sha256:
        raise InputError(
            f"model {model}: weights are {found[:12]}..., but the bundle was made from {manifest.base.sha256[:12]}..."
        )


def _witnesses(models: PyTorchModels | None, records: Mapping[str, Record]) -> dict[str, str]:
    """Who says what each adapter should compute, besides us."""
    names = dict(models.witnesses.names) if models else {}
    return {**names, **{name: f"recorded by {record.witness}" for name, record in records.items()}}


def _named_by(
    manifest: Manifest, models: PyTorchModels | None, records: Mapping[str, Record]
) -> dict[str, tuple[str, ...]]:
    """Class names by the witnesses, of the adapters whose classes have been named; not of those that a user named."""
    subjects = models.witnesses.subjects if models else {}
    found = {name: tuple(subject.labels) for name, subject in subjects.items() if subject.labels}
    found |= {name: record.labels for name, record in records.items() if record.labels}
    return {name: labels for name, labels in found.items() if not manifest.adapter(name).labels_given}
