"""Headers of the safetensors files of a model folder: one file, or shards with an index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapter_export.checkpoints.safetensors_header import Entry, Header, read_header
from adapter_export.checkpoints.weights import INDEX, SINGLE, shards, weight_files
from adapter_export.errors import CannotMerge, InputError
from adapter_export.reading.files import present
from adapter_export.reading.json_files import read_json


@dataclass(frozen=True)
class WeightHeaders:
    """Headers of a model's weight files.

    Attributes:
        folder: The model's folder.
        files: Headers by file name.
        index: Content of the index file; None for a single file.
        where: File name by tensor.
    """

    folder: Path
    files: Mapping[str, Header]
    index: Mapping[str, Any] | None
    where: Mapping[str, str]

    def entry(self, tensor: str) -> Entry:
        return self.files[self.where[tensor]].tensors[tensor]

    @property
    def aliases(self) -> dict[str, str]:
        """Tensors that the files leave out as they equal another one (older writers): removed name -> kept name."""
        found: dict[str, str] = {}
        for header in self.files.values():
            found |= {name: kept for name, kept in header.metadata.items() if kept in header.tensors}
        return found


def read_weight_headers(folder: Path, config: Mapping[str, Any]) -> WeightHeaders:
    """Reads the headers of the files that `from_pretrained` would choose.

    Raises:
        InputError: The files are inconsistent.
        CannotMerge: The weights are not safetensors. The message has the command that converts them.
    """
    if config.get("transformers_weights"):
        raise CannotMerge(
            f"{folder / 'config.json'}: field 'transformers_weights': weights of another name than {SINGLE} are not "
            f"merged; convert them once: {_conversion(folder, config)}"
        )
    if present(folder / SINGLE):
        header = read_header(folder / SINGLE)
        return WeightHeaders(folder, {SINGLE: header}, None, dict.fromkeys(header.tensors, SINGLE))
    if present(folder / INDEX):
        return _sharded(folder)
    if any(file.suffix == ".bin" for file in weight_files(folder)):
        raise CannotMerge(f"model {folder}: weights are .bin files; convert them once: {_conversion(folder, config)}")
    raise InputError(f"model {folder}: expected {SINGLE} or {INDEX}, found neither")


def _sharded(folder: Path) -> WeightHeaders:
    path = folder / INDEX
    index = read_json(path)
    files: dict[str, Header] = {}
    where: dict[str, str] = {}
    for file in (shard.name for shard in shards(folder, INDEX)):
        files[file] = read_header(folder / file)
        for name in files[file].tensors:
            if name in where:
                raise InputError(f"{folder / file}: tensor {name[:200]!r} is in {where[name]} as well")
            where[name] = file
    for name, file in index["weight_map"].items():
        if where.get(name) != file:
            raise InputError(f"{path}: field 'weight_map': tensor {name[:200]!r} is not in {file}")
    return WeightHeaders(folder, files, index, where)


def _conversion(folder: Path, config: Mapping[str, Any]) -> str:
    architectures = config.get("architectures")
    given = architectures[0] if isinstance(architectures, list) and architectures else None
    name = given if isinstance(given, str) and given.isidentifier() else "AutoModel"
    return (
        f'python -c "from transformers import {name} as M; '
        f"M.from_pretrained({str(folder)!r}, dtype='auto').save_pretrained('converted')\""
    )
