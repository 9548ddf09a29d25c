"""Which process speaks, by what `torchrun` announces; and that announced processes are really there."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapter_export.errors import InputError
from adapter_export.training import processes
from adapter_export.training.run_folder import RunFolder
from adapter_export.training.settings import TrainingSettings
from adapter_export.training.trainer import arguments


@pytest.mark.parametrize(
    ("size", "rank", "first"),
    [(None, None, True), ("1", "0", True), ("2", "0", True), ("2", "1", False), (None, "1", True)],
)
def test_the_first_process(monkeypatch: pytest.MonkeyPatch, size: str | None, rank: str | None, first: bool) -> None:
    for name, value in (("WORLD_SIZE", size), ("RANK", rank)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert processes.is_first() is first


def test_processes_that_do_not_join_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "announced", lambda: 2)
    with pytest.raises(InputError, match="WORLD_SIZE=2: expected a process group of that size, found 1"):
        arguments(TrainingSettings(1e-3), RunFolder(tmp_path), evaluates=False)
