"""The working folder: what stays of a run that did not end, and who may have it."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapter_export.errors import InputError, OutputExists
from adapter_export.training.work import WorkFolder

RUN = {"seed": 1, "columns": ["text", "label"]}


@pytest.fixture
def work(tmp_path: Path) -> WorkFolder:
    return WorkFolder.beside(tmp_path / "deep" / "output")


def save(work: WorkFolder, step: int, *, complete: bool = True) -> None:
    work.checkpoint(step).mkdir()
    if complete:
        work.mark_complete(step)


def run(work: WorkFolder, *steps: int, error: BaseException | None = None, resume: bool = False) -> None:
    """A run that makes complete checkpoints after `steps`, and ends by raising `error`."""
    with work.opened(RUN, resume=resume):
        for step in steps:
            save(work, step)
        if error is not None:
            raise error


def killed(work: WorkFolder, *steps: int) -> None:
    with pytest.raises(SystemExit):
        run(work, *steps, error=SystemExit())


def test_gone_after_a_run_that_ended_well(work: WorkFolder) -> None:
    with work.opened(RUN, resume=False):
        save(work, 5)
        assert work.path.name == "output.partial"
    assert not work.path.exists()


def test_kept_only_with_something_to_resume(work: WorkFolder, tmp_path: Path) -> None:
    killed(work)
    assert not list(tmp_path.iterdir()), "not even the folders above it"
    killed(work, 9, 10)
    assert work.last_step() == 10


def test_gone_after_bad_input(work: WorkFolder, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        run(work, 5, error=InputError("it would come again"))
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_half_written_is_not_used(work: WorkFolder) -> None:
    killed(work, 5)
    save(work, 10, complete=False)
    assert work.last_step() == 5
    with work.opened(RUN, resume=True):
        assert not work.checkpoint(10).exists()
        assert work.checkpoint(5).exists()


def test_a_failing_resumed_run_keeps_what_was_there(work: WorkFolder) -> None:
    killed(work, 5)
    with pytest.raises(InputError):
        run(work, error=InputError("x"), resume=True)
    assert work.last_step() == 5


def test_resumed_by_the_same_settings_only(work: WorkFolder) -> None:
    work.check(RUN, resume=True, force=False)
    killed(work, 5)
    work.check(RUN, resume=True, force=False)
    with pytest.raises(InputError, match="field 'seed': the killed run had 1, this one has 2; resume with the same"):
        work.check({**RUN, "seed": 2}, resume=True, force=False)


def test_neither_resumed_nor_discarded_is_refused(work: WorkFolder) -> None:
    killed(work, 5)
    with pytest.raises(OutputExists, match=r"output\.partial: holds a run that was killed; continue it with --resume"):
        work.check(RUN, resume=False, force=False)
    work.check(RUN, resume=False, force=True)
    with work.opened(RUN, resume=False):
        assert work.last_step() is None


def test_a_folder_of_somebody_else_is_never_removed(work: WorkFolder) -> None:
    work.path.mkdir(parents=True)
    (work.path / "thesis.txt").touch()
    for resume, force in ((False, True), (True, False)):
        with pytest.raises(InputError, match="expected the checkpoints of a killed run, found something else"):
            work.check(RUN, resume=resume, force=force)
