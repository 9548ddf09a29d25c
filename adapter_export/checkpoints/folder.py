"""Reads and writes adapter folders. The format of a folder is recognised by its content."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from adapter_export import tasks
from adapter_export.checkpoints import own
from adapter_export.checkpoints.adapter import LM_HEAD, Adapter, Checkpoint
from adapter_export.checkpoints.adapterhub import reading as adapterhub
from adapter_export.checkpoints.labels import named
from adapter_export.checkpoints.licenses import stated
from adapter_export.checkpoints.peft import reading as peft
from adapter_export.checkpoints.problem_types import PROBLEM_TYPES
from adapter_export.checkpoints.stated_task import head_modules
from adapter_export.checkpoints.weights import ADAPTER_FILES, checkpoint_sha256
from adapter_export.errors import InputError
from adapter_export.hub import source_of
from adapter_export.methods import registry
from adapter_export.modelinfo import ModelInfo
from adapter_export.outputs.files import library_writes
from adapter_export.outputs.ownership import SIDECAR
from adapter_export.reading.fields import field
from adapter_export.reading.files import present
from adapter_export.reading.folders import existing_folder
from adapter_export.reading.json_files import optional_json, read_json
from adapter_export.reading.shown import shortened

_log = logging.getLogger(__name__)


class Format(Protocol):
    """The functions of the module of a checkpoint format."""

    FORMAT: str

    def resolve(self, checkpoint: Checkpoint, info: ModelInfo) -> Adapter: ...

    def task_of(self, checkpoint: Checkpoint) -> str | None: ...

    def recognises(self, config: Mapping[str, Any]) -> bool: ...

    def read(self, folder: Path, config: dict[str, Any]) -> Checkpoint: ...

    def write(self, folder: Path, adapter: Adapter, info: ModelInfo, base_name: str) -> dict[str, Any]:
        """Writes the adapter. Returns what the format cannot express, for our file beside the format's own."""


_FORMATS: dict[str, Format] = {peft.FORMAT: peft, adapterhub.FORMAT: adapterhub, own.FORMAT: own}
_MAX_TOKENS = 1 << 31


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Reads an adapter folder without a model.

    Raises:
        InputError: The folder cannot be read. The error names the file and what is wrong with it.
    """
    folder = existing_folder(path, "adapter")
    config_path = folder / "adapter_config.json"
    if present(fusion := folder / "adapter_fusion_config.json"):
        raise InputError(f"{fusion}: AdapterFusion is not supported, as it mixes the outputs of several adapters")
    # PEFT saves an adapter with a name into a subfolder.
    inside = sorted(path.parent.name for path in folder.glob(f"*/{config_path.name}"))
    if inside and not present(config_path):
        raise InputError(f"adapter {folder}: expected one, found a folder of {len(inside)}: {', '.join(inside)}")
    config = read_json(config_path)
    found = next((one for one in _FORMATS.values() if one.recognises(config)), None)
    if found is None:
        raise InputError(f"{config_path}: expected field 'peft_type' (PEFT) or 'config' (AdapterHub), found neither")
    checkpoint = found.read(folder, config)
    checkpoint.sidecar.update(_read_sidecar(folder / SIDECAR))
    return checkpoint


def _read_sidecar(path: Path) -> dict[str, Any]:
    sidecar = optional_json(path)
    for name in ("base_sha256", "task", "placement"):
        field(sidecar, path, name, str, None)
    pad = field(sidecar, path, "pad_token_id", int, None)
    if pad is not None and (isinstance(pad, bool) or not 0 <= pad < _MAX_TOKENS):
        raise InputError(f"{path}: field 'pad_token_id': expected a token's number, found {shortened(pad)}")
    for name in ("labels", "modules"):
        values = field(sidecar, path, name, list, None)
        if values is not None and not all(isinstance(value, str) for value in values):
            raise InputError(f"{path}: field {name!r}: expected a list of strings, found {shortened(values)}")
    if sidecar.get("task") not in (None, *tasks.TASKS):
        expected, found = ", ".join(tasks.TASKS), shortened(sidecar["task"])
        raise InputError(f"{path}: field 'task': expected one of {expected}, found {found}")
    if sidecar.get("problem_type") not in (None, *PROBLEM_TYPES):
        expected, found = ", ".join(PROBLEM_TYPES), sidecar["problem_type"]
        raise InputError(f"{path}: field 'problem_type': expected one of {expected}, found {found!r:.60}")
    return sidecar


def checkpoint_task(checkpoint: Checkpoint) -> str | None:
    """Returns the task that the checkpoint was trained for, as in `tasks.TASKS`; None if it does not state one."""
    return checkpoint.sidecar.get("task") or _FORMATS[checkpoint.format].task_of(checkpoint)


def load_adapter(
    path: str | Path,
    info: ModelInfo,
    *,
    task: str | None = None,
    leave_head: bool = True,
    labels: Sequence[str] | None = None,
) -> Adapter:
    """Reads an adapter folder and places the adapter in a model.

    The notes on a checkpoint (`Adapter.notes`) are logged as warnings, which Python prints on stderr by default.

    Args:
        path: The folder.
        info: Description of the model.
        task: The task that the adapter is loaded for. None: the task of the model's class. Empty: no task.
        leave_head: For task `features`, which has no task head: whether a head may be left out, with a note.
        labels: Class names given by the user, which override others.

    Raises:
        InputError: The adapter does not fit: modules are unknown, tensors are missing, unexpected or misshapen, values
            are not finite, the recorded base model is another one, or the number of class names is wrong.
    """
    checkpoint = read_checkpoint(path)
    task = tasks.of_architecture(info.architecture) if task is None else task
    notes: tuple[str, ...] = ()
    if task == "features":
        checkpoint, left = _without_head(checkpoint, info)
        if left and not leave_head:
            raise _no_place(checkpoint, left, task)
        if left:
            notes = (f"its task head ({', '.join(left)}) is left out, as task features has no place for it",)
    adapter = _FORMATS[checkpoint.format].resolve(checkpoint, info)
    if task in tasks.TASKS and not tasks.is_labelled(task) and (surplus := set(adapter.head) - {LM_HEAD}):
        raise _no_place(checkpoint, surplus, str(task))
    said, readme = checkpoint_task(checkpoint), stated(checkpoint.folder)
    adapter = replace(
        adapter,
        task=said if said in tasks.TASKS else None,
        source=source_of(checkpoint.folder),
        source_sha256=checkpoint_sha256(checkpoint.folder),
        notes=(*adapter.notes, *notes),
        pad_token_id=checkpoint.sidecar.get("pad_token_id"),
        license=readme.license,
        base_model=readme.base_model,
    )
    adapter = replace(adapter, problem_type=checkpoint.sidecar.get("problem_type") or adapter.problem_type)
    check_base(checkpoint.folder, adapter, info.sha256)
    adapter = named(str(checkpoint.folder), adapter, info.labels, labels)
    for note in adapter.notes:
        _log.warning("%s: %s", checkpoint.folder, note)
    return adapter


def _without_head(checkpoint: Checkpoint, info: ModelInfo) -> tuple[Checkpoint, tuple[str, ...]]:
    """Returns the checkpoint without a task head and class names, and the modules of the head."""
    sidecar = {name: value for name, value in checkpoint.sidecar.items() if name not in ("labels", "pad_token_id")}
    head = head_modules(checkpoint, info)
    modules = {name: name.rpartition(".")[0] for name in checkpoint.tensors}
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if modules[name] not in head}
    return replace(checkpoint, tensors=tensors, head={}, head_config={}, sidecar=sidecar), head


def _no_place(checkpoint: Checkpoint, modules: Iterable[str], task: str) -> InputError:
    return InputError(
        f"{checkpoint.folder}: {', '.join(sorted(modules))}: saved with the adapter, and a model for {task} has no "
        "such module; --task features exports the body without it"
    )


def check_base(folder: Path, adapter: Adapter, sha256: str) -> None:
    """Checks the digest of the base model that an adapter recorded.

    Args:
        folder: The adapter's folder.
        adapter: The adapter.
        sha256: Digest of the base model's weights; empty if it is not known.

    Raises:
        InputError: The adapter recorded another digest.
    """
    if adapter.base_sha256 and sha256 and adapter.base_sha256 != sha256:
        raise InputError(
            f"{folder / SIDECAR}: field 'base_sha256': trained on a base model with weights "
            f"{adapter.base_sha256[:12]}..., but this one has {sha256[:12]}..."
        )


def save_adapter(folder: Path, adapter: Adapter, info: ModelInfo, base_name: str) -> None:
    """Writes an adapter into an existing folder, in the format of its method, with our own file beside it.

    Our file (`adapter_export.json`) holds base_sha256, labels, the padding token that training chose, the names of the
    files, and sites for which the format has no setting: as the name of one of our placements, or as modules.

    Args:
        folder: The folder.
        adapter: The adapter.
        info: Description of the base model.
        base_name: Name of the base model.
    """
    with library_writes(folder):
        beside = _FORMATS[registry.get(adapter.method).checkpoint_format].write(folder, adapter, info, base_name)
    sidecar: dict[str, Any] = {"base_sha256": info.sha256 or None, "task": adapter.task}
    if adapter.labels is not None:
        sidecar["labels"] = list(adapter.labels)
    if adapter.problem_type is not None:
        sidecar["problem_type"] = adapter.problem_type
    if adapter.pad_token_id is not None:
        sidecar["pad_token_id"] = adapter.pad_token_id
    sidecar |= beside
    sidecar["files"] = [name for name in ADAPTER_FILES if (folder / name).exists()]
    (folder / SIDECAR).write_text(json.dumps(sidecar, indent=2) + "\n", encoding="utf-8")
