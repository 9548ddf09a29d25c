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


def test_kept_only_with_something_to_resume(work: WorkFolder) -> None:
    killed(work)
    assert not work.path.exists()
    killed(work, 9, 10)
    assert work.last_step() == 10


def test_gone_after_bad_input(work: WorkFolder) -> None:
    with pytest.raises(InputError):
        run(work, 5, error=InputError("it would come again"))
    assert not work.path.exists()


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


@pytest.mark.parametrize(
    "name", ["thesis.txt", "checkpoint-5/thesis.txt", "checkpoint-500/pytorch_model.bin", "runs/checkpoint-5/complete"]
)
@pytest.mark.parametrize(("resume", "force"), [(False, True), (True, False)])
def test_a_folder_with_something_else_in_it_is_never_removed(
    work: WorkFolder, name: str, resume: bool, force: bool
) -> None:
    killed(work, 5)
    (work.path / name).parent.mkdir(parents=True, exist_ok=True)
    (work.path / name).touch()
    with pytest.raises(InputError, match=f"expected the checkpoints of a killed run, found '{name}'; move it away"):
        work.check(RUN, resume=resume, force=force)


@pytest.mark.parametrize(("resume", "force"), [(False, True), (True, False)])
def test_settings_of_another_program(work: WorkFolder, resume: bool, force: bool) -> None:
    """Finding 25: any folder with a settings.json was taken for a run of ours."""
    work.path.mkdir(parents=True)
    (work.path / "settings.json").write_text('{"seed": 1, "columns": ["text", "label"]}')
    with pytest.raises(InputError, match=r"found no settings\.json of such a run"):
        work.check(RUN, resume=resume, force=force)


def test_a_link_is_nobodys_run(work: WorkFolder, tmp_path: Path) -> None:
    killed(work, 5)
    work.path.rename(tmp_path / "elsewhere")
    work.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="found a file or a link"):
        work.check(RUN, resume=False, force=True)
