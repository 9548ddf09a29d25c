"""Writes the model repository of Triton for a bundle.

REPOSITORY/adapter_export.json       the list of the files below
REPOSITORY/NAME/config.pbtxt         the configuration
REPOSITORY/NAME/labels.txt           class names, if all rows have the same
REPOSITORY/NAME/1/model.onnx         the graph as it is in the bundle, beside it the files with its weights
REPOSITORY/NAME/1/licenses           license files of the bundle

Triton reads folders: those of a repository are models, and those of a model are its versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from adapter_export.bundle.graphs import MODEL, is_past
from adapter_export.bundle.manifest import LICENSES, Manifest, read_manifest
from adapter_export.errors import InputError
from adapter_export.naming import is_file_name
from adapter_export.outputs.files import write_json
from adapter_export.outputs.folder import check_output, output_folder, require_space
from adapter_export.outputs.ownership import SIDECAR, listing
from adapter_export.reading.files import open_file, size_of
from adapter_export.reading.folders import existing_folder
from adapter_export.reading.hashes import sha256
from adapter_export.reading.json_files import optional_json
from adapter_export.reading.onnx_files import external_files, read_model
from adapter_export.runtime.inputs import shared_end
from adapter_export.serving.triton.config import LABELS_FILE, ModelConfig, model_config

CONFIG = "config.pbtxt"
# The only version of the model.
VERSION = "1"
# Most rows of a run, if the caller does not say.
MAX_BATCH = 16
_BATCH = "batch"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class ModelRepository:
    """A repository that was written.

    Attributes:
        path: Its folder.
        config: The configuration of its model.
    """

    path: Path
    config: ModelConfig


def write_repository(
    bundle: str | Path,
    output: str | Path,
    *,
    name: str | None = None,
    max_batch: int = MAX_BATCH,
    gpu: bool = False,
    force: bool = False,
) -> ModelRepository:
    """Writes the model repository of a bundle, as a whole or not at all.

    Args:
        bundle: Folder of a bundle of mode merged, embedded or bank that does not generate.
        output: The folder of the repository.
        name: Name of the model; None for that of the bundle's folder.
        max_batch: Largest number of rows in a run. Graphs whose rows must not be combined get 1.
        gpu: Whether the model runs on GPUs.
        force: Whether to replace an earlier repository.

    Raises:
        InputError: Triton cannot run the bundle, a file is not the one that the manifest lists, or a name or a number
            is invalid.
        OutputExists: As `output_folder`.
        OSError: The repository cannot be written.
    """
    folder, chosen = existing_folder(bundle, "bundle"), Path(output)
    manifest = read_manifest(folder)
    check_served(folder, manifest, gpu)
    if max_batch < 1:
        raise InputError(f"max_batch: expected at least 1, found {max_batch}")
    if shared_end(manifest, optional_json(folder / "config.json")) is not None:
        # Such a graph counts the end tokens of its batch, see `shared_end`; Triton does not know which rows fit.
        max_batch = 1
    config = model_config(manifest, _model_name(folder, name), max_batch, gpu)
    files = [*_graph_files(folder, manifest), *(path for path in manifest.files if path.startswith(f"{LICENSES}/"))]
    place = check_output(chosen, force, [folder])
    require_space(place, sum(size_of(folder / path, folder) for path in files), chosen)
    with output_folder(chosen, force, [folder]) as new:
        _write(new.folder, folder, manifest, config, files)
        new.commit()
    return ModelRepository(chosen, config)


def check_served(folder: Path, manifest: Manifest, gpu: bool) -> None:
    """Raises InputError, with the reason, if Triton's ONNX Runtime backend cannot run the bundle right."""
    what = f"bundle {folder}"
    if MODEL not in manifest.graphs or any(map(is_past, manifest.inputs)):
        raise InputError(
            f"{what}: its graph generates with a cache, which Triton would send to the client and back with each "
            "token; serve it with 'adapter-export serve', or export it with --no-cache to score texts"
        )
    if not manifest.mode.in_graph and not manifest.mode.per_row:
        how = (
            "every request would have to send all tensors of its adapter, and Triton combines no such requests"
            if manifest.bind.required
            else "Triton's ONNX Runtime backend cannot activate an adapter, and would compute the base model"
        )
        raise InputError(f"{what}: mode {manifest.mode!r}: {how}; export it with --mode bank, merged or embedded")
    for name, info in {**manifest.inputs, **manifest.outputs}.items():
        if info.shape[:1] != (_BATCH,) or _BATCH in info.shape[1:]:
            raise InputError(
                f"{what}: {name!r} has dims {list(info.shape)}: expected rows of a batch, each by itself, as Triton "
                "combines the rows of requests"
            )
    if manifest.mode.per_row and (added := [info.name for info in manifest.adapters if info.slot is None]):
        raise InputError(
            f"{what}: adapter {added[0]!r} was added after the export, so the graph does not have it; export the "
            "bundle again with it, or remove it from the bundle"
        )
    if manifest.dtype.needs_cuda and not gpu:
        raise InputError(f"{what}: computes in {manifest.dtype}, for which ONNX Runtime needs a GPU; pass --gpu")


def _model_name(folder: Path, name: str | None) -> str:
    chosen = folder.resolve().name if name is None else name
    if not is_file_name(chosen):
        given = "--name" if name is not None else f"bundle {folder}: its name is to be that of the model; pass --name"
        raise InputError(
            f"{given}: expected 1 to 64 of letters, digits, '.', '_', '-', starting with a letter or digit, and no "
            f"name reserved by an operating system, found {chosen[:200]!r}"
        )
    return chosen


def _graph_files(folder: Path, manifest: Manifest) -> list[str]:
    """Returns the paths of the graph and of the files with its weights. Raises InputError for one that is not listed
    in the manifest.
    """
    path = folder / MODEL
    _check_digest(path, sha256(path, folder), manifest.files[MODEL])
    weights = [external.location for external in external_files(path, read_model(path))]
    if unlisted := [name for name in weights if name not in manifest.files]:
        raise InputError(f"{folder / unlisted[0]}: has weights of the graph, but is not in the bundle's manifest")
    return [str(MODEL), *weights]


def _write(target: Path, folder: Path, manifest: Manifest, config: ModelConfig, files: Iterable[str]) -> None:
    model = target / config.name
    for name in files:
        _copy(folder, name, model / VERSION / name, manifest.files[name])
    (model / CONFIG).write_text(str(config), encoding="utf-8")
    if config.label_lines is not None:
        (model / LABELS_FILE).write_text(config.label_lines, encoding="utf-8", newline="\n")
    write_json(target / SIDECAR, {"triton": {"name": config.name}, "files": listing(target)})


def _copy(folder: Path, name: str, target: Path, digest: str) -> None:
    """Copies a file of the bundle. Raises InputError if it is not the one that the manifest lists."""
    target.parent.mkdir(parents=True, exist_ok=True)
    found = hashlib.sha256()
    with open_file(folder / name, folder) as source, target.open("wb") as copy:
        while chunk := source.read(_CHUNK_BYTES):
            found.update(chunk)
            copy.write(chunk)
    _check_digest(folder / name, found.hexdigest(), digest)


def _check_digest(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise InputError(f"{path}: expected a file with sha256 {expected[:12]}..., found {found[:12]}...")
