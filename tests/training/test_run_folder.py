"""The working folder: what stays of a run that did not end, and who may have it."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapter_export.errors import InputError, OutputExists
from adapter_export.training.run_folder import RunFolder

RUN = {"seed": 1, "columns": ["text", "label"]}


@pytest.fixture
def run_folder(tmp_path: Path) -> RunFolder:
    return RunFolder.beside(tmp_path / "deep" / "output")


def save(run_folder: RunFolder, step: int, *, complete: bool = True) -> None:
    run_folder.checkpoint(step).mkdir()
    if complete:
        run_folder.mark_complete(step)


def run(run_folder: RunFolder, *steps: int, error: BaseException | None = None, resume: bool = False) -> None:
    """A run that makes complete checkpoints after `steps`, and ends by raising `error`."""
    with run_folder.opened(RUN, resume=resume):
        for step in steps:
            save(run_folder, step)
        if error is not None:
            raise error


def killed(run_folder: RunFolder, *steps: int) -> None:
    with pytest.raises(SystemExit):
        run(run_folder, *steps, error=SystemExit())


def test_gone_after_a_run_that_ended_well(run_folder: RunFolder) -> None:
    with run_folder.opened(RUN, resume=False):
        save(run_folder, 5)
        assert run_folder.path.name == "output.partial"
    assert not run_folder.path.exists()


def test_kept_only_with_something_to_resume(run_folder: RunFolder) -> None:
    killed(run_folder)
    assert not run_folder.path.exists()
    killed(run_folder, 9, 10)
    assert run_folder.last_step() == 10


def test_gone_after_bad_input(run_folder: RunFolder) -> None:
    with pytest.raises(InputError):
        run(run_folder, 5, error=InputError("it would come again"))
    assert not run_folder.path.exists()


def test_a_checkpoint_half_written_is_not_used(run_folder: RunFolder) -> None:
    killed(run_folder, 5)
    save(run_folder, 10, complete=False)
    assert run_folder.last_step() == 5
    with run_folder.opened(RUN, resume=True):
        assert not run_folder.checkpoint(10).exists()
        assert run_folder.checkpoint(5).exists()


def test_a_failing_resumed_run_keeps_what_was_there(run_folder: RunFolder) -> None:
    killed(run_folder, 5)
    with pytest.raises(InputError):
        run(run_folder, error=InputError("x"), resume=True)
    assert run_folder.last_step() == 5


def test_resumed_by_the_same_settings_only(run_folder: RunFolder) -> None:
    run_folder.check(RUN, resume=True, force=False)
    killed(run_folder, 5)
    run_folder.check(RUN, resume=True, force=False)
    with pytest.raises(InputError, match="field 'seed': the killed run had 1, this one has 2; resume with the same"):
        run_folder.check({**RUN, "seed": 2}, resume=True, force=False)


def test_neither_resumed_nor_discarded_is_refused(run_folder: RunFolder) -> None:
    killed(run_folder, 5)
    with pytest.raises(OutputExists, match=r"output\.partial: holds a run that was killed; continue it with --resume"):
        run_folder.check(RUN, resume=False, force=False)
    run_folder.check(RUN, resume=False, force=True)
    with run_folder.opened(RUN, resume=False):
        assert run_folder.last_step() is None


@pytest.mark.parametrize(
    "name", ["thesis.txt", "checkpoint-5/thesis.txt", "checkpoint-500/pytorch_model.bin", "runs/checkpoint-5/complete"]
)
@pytest.mark.parametrize(("resume", "force"), [(False, True), (True, False)])
def test_a_folder_with_something_else_in_it_is_never_removed(
    run_folder: RunFolder, name: str, resume: bool, force: bool
) -> None:
    killed(run_folder, 5)
    (run_folder.path / name).parent.mkdir(parents=True, exist_ok=True)
    (run_folder.path / name).touch()
    with pytest.raises(InputError, match=f"expected the checkpoints of a killed run, found '{name}'; move it away"):
        run_folder.check(RUN, resume=resume, force=force)


@pytest.mark.parametrize(("resume", "force"), [(False, True), (True, False)])
def test_settings_of_another_program(run_folder: RunFolder, resume: bool, force: bool) -> None:
    """Any folder with a settings.json was taken for a run of ours."""
    run_folder.path.mkdir(parents=True)
    (run_folder.path / "settings.json").write_text('{"seed": 1, "columns": ["text", "label"]}')
    with pytest.raises(InputError, match=r"found no settings\.json of such a run"):
        run_folder.check(RUN, resume=resume, force=force)


def test_a_link_is_nobodys_run(run_folder: RunFolder, tmp_path: Path) -> None:
    killed(run_folder, 5)
    run_folder.path.rename(tmp_path / "elsewhere")
    run_folder.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="found a file or a link"):
        run_folder.check(RUN, resume=False, force=True)
