"""Finds where wrong bundles depart from PyTorch, by a few cases."""

from __future__ import annotations

from pathlib import Path

from adapter_export.bundle.manifest import read_manifest
from adapter_export.parity.bundle_runner import open_bundle_runner
from adapter_export.parity.cases import GreedyCase
from adapter_export.parity.criteria.judge import Verdict
from adapter_export.parity.criteria.select import criteria_for
from adapter_export.parity.localizing.departure import ParityDeparture
from adapter_export.parity.localizing.locate import locate
from adapter_export.parity.pytorch_models import PyTorchModels
from adapter_export.parity.report import ParityReport
from adapter_export.parity.results import judged, measured_cases
from tests.bundles import Exported
from tests.parity.mutants import Mutant, make

# The length and the number of rows of the cases that are run: with and without padding.
LENGTH, ROWS = 9, 2


class Located:
    """Finds where bundles depart from PyTorch. The models are loaded once."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, str], PyTorchModels] = {}

    def departure(self, mutant: Mutant, exported: Exported, folder: Path) -> ParityDeparture | None:
        bundle = make(mutant, exported, folder)
        manifest = read_manifest(bundle)
        adapters = {mutant.adapter: exported.adapters[mutant.adapter]}
        key = mutant.bundle, mutant.adapter
        models = self._models.setdefault(key, PyTorchModels(exported.base, bundle, manifest, adapters))
        with open_bundle_runner(bundle, manifest, models.adapters, "cpu") as runner:
            models.attach(runner)
            cases = [case for case in models.cases if (case.batch, case.length) == (ROWS, LENGTH)]
            measured = measured_cases([case for case in cases if not isinstance(case, GreedyCase)], models.run, None)
        results = tuple(judged(measured, criteria_for(manifest)))
        report = ParityReport(bundle, manifest.mode, manifest.task, manifest.dtype, "cpu", (), results)
        assert any(item.judgement.verdict is Verdict.FAIL for item in results), mutant.name
        return locate(report, manifest, models)
