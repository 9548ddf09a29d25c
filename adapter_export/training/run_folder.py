"""The folder of a training run, `OUTPUT.partial`, with checkpoints to resume from. A run that ends well removes it.

`settings.json` holds the settings that the run was started with. A run with other settings does not resume it.
`checkpoint-N/` is the state after N updates. It is usable as soon as it holds the file `complete`, which is written
last. A folder with any other file in it is not ours, and is neither resumed nor removed.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapter_export.errors import InputError, OutputExists
from adapter_export.outputs.files import write_json
from adapter_export.outputs.ownership import files_below
from adapter_export.outputs.workspace import scratch_of
from adapter_export.reading.json_files import read_json

_log = logging.getLogger(__name__)

_SETTINGS = "settings.json"
_COMPLETE = "complete"
_PREFIX = "checkpoint-"
# Distinguishes our settings.json from other files of that name.
_WRITTEN_BY = {"written_by": "adapter-export"}
# All files that a run writes. The Trainer writes one file of random states for each process.
_FILES = re.compile(
    r"settings\.json|\.settings\.json\.\d+\.tmp|checkpoint-\d+/(complete|model\.safetensors|optimizer\.pt|scheduler\.pt|"
    r"scaler\.pt|rng_state(_\d+)?\.pth|trainer_state\.json)"
)


@dataclass(frozen=True)
class RunFolder:
    """The folder for the checkpoints of one run.

    Attributes:
        path: The folder.
        note_scratch: Called with whether the folder would be of no use if the run were killed now.
    """

    path: Path
    note_scratch: Callable[[bool], None] = lambda is_scratch: None

    @staticmethod
    def beside(output: Path, note_scratch: Callable[[bool], None] = lambda is_scratch: None) -> RunFolder:
        """Returns the folder of a run that writes to `output`. note_scratch is the attribute of that name."""
        return RunFolder(scratch_of(output.resolve()), note_scratch)

    def checkpoint(self, step: int) -> Path:
        """Returns the path of the state after `step` updates."""
        return self.path / f"{_PREFIX}{step}"

    def mark_complete(self, step: int) -> None:
        """Marks a checkpoint as usable. To be called when every process has written its part."""
        (self.checkpoint(step) / _COMPLETE).touch()
        self.note_scratch(False)

    def last_step(self) -> int | None:
        """Returns the number of updates of the newest usable checkpoint; None if there is none."""
        marks = self.path.glob(f"{_PREFIX}*/{_COMPLETE}")
        return max((int(mark.parent.name.removeprefix(_PREFIX)) for mark in marks), default=None)

    def check(self, settings: Mapping[str, Any], *, resume: bool, force: bool) -> None:
        """Checks, before any work, that the folder does not prevent a run with these settings.

        Args:
            settings: All settings of the run.
            resume: Whether the run may continue a killed one.
            force: Whether the run may discard a killed one.

        Raises:
            OutputExists: The folder holds checkpoints of a killed run, which is to be neither resumed nor discarded.
            InputError: The checkpoints are of a run with other settings, or the folder is not ours.
        """
        if not os.path.lexists(self.path):
            return
        if (problem := self._foreign()) is not None:
            raise InputError(f"{self.path}: expected the checkpoints of a killed run, found {problem}; move it away")
        if not resume and not force and self.last_step() is not None:
            raise OutputExists(f"{self.path}: holds a run that was killed; continue it with --resume, or pass --force")
        if resume:
            _compare(self.path / _SETTINGS, {**_WRITTEN_BY, **settings})

    def _foreign(self) -> str | None:
        """Returns the name of the first file in the folder that no run of ours wrote; None if there is none."""
        if self.path.is_symlink() or not self.path.is_dir():
            return "a file or a link"
        for name in files_below(self.path):
            if not _FILES.fullmatch(name):
                return repr(name)
        settings = self.path / _SETTINGS
        if not settings.is_file() or read_json(settings).get("written_by") != "adapter-export":
            return f"no {_SETTINGS} of such a run"
        return None

    @contextmanager
    def opened(self, settings: Mapping[str, Any], *, resume: bool) -> Iterator[None]:
        """Makes the folder ready for one run, and removes it when the `with` statement ends.

        After an error, a folder that was there before stays. A new folder stays only if it has a complete checkpoint to
        resume from, and if the error is no InputError, which would occur again.

        Args:
            settings: All settings of the run.
            resume: Whether to keep the checkpoints that are there.
        """
        was_there = resume and self.path.exists()
        try:
            self._prepare(settings, keep=was_there)
            yield
        except BaseException as error:
            if was_there or (not isinstance(error, InputError) and self.last_step() is not None):
                _log.warning(
                    "%s: holds the state after %s updates; --resume continues from there", self.path, self.last_step()
                )
            else:
                self._remove()
            raise
        self._remove()

    def _remove(self) -> None:
        self.note_scratch(True)
        shutil.rmtree(self.path, ignore_errors=True)

    def _prepare(self, settings: Mapping[str, Any], *, keep: bool) -> None:
        """Makes the folder, or removes the incomplete checkpoints of a killed run."""
        if not keep:
            shutil.rmtree(self.path, ignore_errors=True)
        self.note_scratch(self.last_step() is None)
        self.path.mkdir(parents=True, exist_ok=True)
        for checkpoint in self.path.glob(f"{_PREFIX}*"):
            if not (checkpoint / _COMPLETE).exists():
                shutil.rmtree(checkpoint)
        write_json(self.path / _SETTINGS, {**_WRITTEN_BY, **settings})


def _compare(path: Path, settings: Mapping[str, Any]) -> None:
    old, new = read_json(path), json.loads(json.dumps(settings))
    for name in dict.fromkeys([*new, *old]):
        if old.get(name) != new.get(name):
            raise InputError(
                f"{path}: field {name!r}: the killed run had {old.get(name)!r}, this one has {new.get(name)!r}; "
                "resume with the same settings, or start again with --force"
            )
