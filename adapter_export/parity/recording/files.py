"""The files of models and checkpoints: which count, and their sha256."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# What a checkpoint consists of, in either library's format; other files beside them say nothing of what it computes.
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
# A model's own weights: the first of these that a folder has; an index stands for the files that it lists.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


class Refused(Exception):
    """The library cannot load this checkpoint: there is nothing to compare with."""


class Mismatch(Exception):
    """The library loads the checkpoint, but not all of it: what it then computes is something else."""


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; raises Refused where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refused(f"{path}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise Refused(f"{path}: expected a JSON object")
    return value


def weight_files(folder: Path) -> list[Path]:
    """The files of a model folder that hold the base model's own weights, sorted by name."""
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
    """Names that the weights may have: that in the config, where it tells one, else the usual ones."""
    config = folder / "config.json"
    named = read_object(config).get("transformers_weights") if config.is_file() else None
    if named is not None and (not isinstance(named, str) or Path(named).name != named):
        raise Refused(f"{config}: names a file outside its folder")
    return (named,) if named else WEIGHTS


def digest(files: Sequence[Path]) -> str:
    """One sha256 of several files: of their names and contents, in the order given."""
    whole = hashlib.sha256()
    for path in files:
        own = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                own.update(chunk)
        whole.update(f"{path.name}\0{own.hexdigest()}\n".encode())
    return whole.hexdigest()


def base_sha256(folder: Path) -> str:
    """sha256 of a base model's own weights."""
    return digest(weight_files(folder))


def adapter_sha256(folder: Path) -> str:
    """sha256 of what makes up a checkpoint: its configs and tensors."""
    return digest([folder / name for name in sorted(CHECKPOINT_FILES) if (folder / name).is_file()])


@contextlib.contextmanager
def clean_copy(folder: Path) -> Iterator[Path]:
    """A folder with the model's config and weights alone: transformers would also load an adapter beside them."""
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
