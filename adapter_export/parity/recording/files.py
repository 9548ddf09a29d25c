"""Finds the files that define a model or a checkpoint, and computes their sha256."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# The files of a checkpoint, in the format of either library. Other files in the folder do not affect its outputs.
CHECKPOINT_FILES = (
    "adapter_config.json",
    "adapter_interface.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "adapter.safetensors",
    "pytorch_adapter.bin",
    "head_config.json",
    "model_head.safetensors",
    "pytorch_model_head.bin",
)
# Files with a model's own weights. The first one that exists is used; an index stands for the files that it lists.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


class Refused(Exception):
    """The library cannot load this checkpoint, so there is nothing to compare with."""


class Mismatch(Exception):
    """The library loads a part of the checkpoint only, so its outputs are not those of the checkpoint."""


def read_object(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        Refused: The file cannot be read, or is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refused(f"{path}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise Refused(f"{path}: expected a JSON object")
    return value


def weight_files(folder: Path) -> list[Path]:
    """Returns the files of a model folder that hold the base model's own weights, sorted by name.

    Raises:
        Refused: The folder has none, or an index names files outside of it.
    """
    for name in _choices(folder):
        path = folder / name
        if not path.is_file():
            continue
        if not name.endswith(".index.json"):
            return [path]
        names = {str(item) for item in read_object(path).get("weight_map", {}).values()}
        if any(Path(item).name != item for item in names):
            raise Refused(f"{path}: names files outside its folder")
        return [folder / item for item in sorted(names)]
    raise Refused(f"{folder}: expected one of {', '.join(WEIGHTS)}, found none")


def _choices(folder: Path) -> tuple[str, ...]:
    """Returns possible names of the file with the weights: the one in the config if there is one, else WEIGHTS."""
    config = folder / "config.json"
    named = read_object(config).get("transformers_weights") if config.is_file() else None
    if named is not None and (not isinstance(named, str) or Path(named).name != named):
        raise Refused(f"{config}: names a file outside its folder")
    return (named,) if named else WEIGHTS


def digest(files: Sequence[Path]) -> str:
    """Returns one sha256 of several files: of their names and contents, in the given order."""
    whole = hashlib.sha256()
    for path in files:
        own = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                own.update(chunk)
        whole.update(f"{path.name}\0{own.hexdigest()}\n".encode())
    return whole.hexdigest()


def base_sha256(folder: Path) -> str:
    """Returns the sha256 of a base model's own weights."""
    return digest(weight_files(folder))


def adapter_sha256(folder: Path) -> str:
    """Returns the sha256 of the files of a checkpoint: its configs and tensors."""
    return digest([folder / name for name in sorted(CHECKPOINT_FILES) if (folder / name).is_file()])


@contextlib.contextmanager
def clean_copy(folder: Path) -> Iterator[Path]:
    """Returns a context with a temporary folder that contains only the model's config and weights.

    transformers would also load an adapter that lies in the folder of the model.
    """
    with tempfile.TemporaryDirectory(prefix="reference-") as name:
        target = Path(name)
        indexes = [folder / item for item in _choices(folder) if item.endswith(".index.json")]
        present = [path for path in indexes if path.is_file()]
        for path in dict.fromkeys([folder / "config.json", *weight_files(folder), *present]):
            try:
                (target / path.name).symlink_to(path.resolve())
            except OSError:  # where links are not allowed
                shutil.copyfile(path, target / path.name)
        yield target
