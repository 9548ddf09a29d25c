"""A record of a bundle that tests share: made once a process, from a few shapes, as a full one takes a minute.

recorded: the record of `swappable_bundle` with SHAPES and TEXT, and the report of the check that wrote it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from adapter_export.parity import pytorch_models
from adapter_export.parity.cases import ParityCase
from adapter_export.parity.report import ParityReport
from adapter_export.parity.run import check_parity
from tests.bundles import Exported

SHAPES = (ParityCase(1, 1), ParityCase(3, 9, "left"), ParityCase(2, 13, "right"))
TEXT = "the cat was fast"


@dataclass(frozen=True)
class Recorded:
    """exported: what was recorded. file: the record. report: of the check that wrote it."""

    exported: Exported
    file: Path
    report: ParityReport


@pytest.fixture(scope="session")
def record(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Recorded]:
    """Called as (exported, shapes=SHAPES, texts=()) -> Recorded."""

    def make(exported: Exported, shapes: Sequence[ParityCase] = SHAPES, texts: Sequence[str] = ()) -> Recorded:
        file = tmp_path_factory.mktemp("record") / "parity.npz"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pytorch_models, "cases_for", lambda *_: list(shapes))
            report = check_parity(exported.bundle, exported.base, exported.adapters, record=file, texts=texts)
        return Recorded(exported, file, report)

    return make


@pytest.fixture(scope="session")
def recorded(record: Callable[..., Recorded], swappable_bundle: Exported) -> Recorded:
    return record(swappable_bundle, texts=[TEXT])
