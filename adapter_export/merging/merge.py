"""`adapter-export merge`: writes a copy of the base model with adapters folded in, without building the model."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapter_export import tasks
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import check_base, load_adapter, read_checkpoint
from adapter_export.checkpoints.labels import check_given
from adapter_export.checkpoints.stated_task import AUTO, choose_task, stated_task
from adapter_export.checkpoints.weights import (
    ADAPTER_CONFIG,
    INDEX,
    adapter_beside,
    model_config,
    refuse_quantized,
    weights_sha256,
)
from adapter_export.errors import CannotMerge, InputError
from adapter_export.hub import local, source_of
from adapter_export.merging.card import OWN_CARD, Origin, has_own_card, origin_of, write_origin
from adapter_export.merging.copying import Tick, can_share
from adapter_export.merging.folder_files import companions
from adapter_export.merging.heads import HeadChange, check_language_head, check_repeated, head_change
from adapter_export.merging.model_folder import EXPERT, ModelFolder, read_model_folder
from adapter_export.merging.piecewise import TensorChange
from adapter_export.merging.plan import FilePlan, plan_changes, plan_files
from adapter_export.merging.progress import Meter, Progress
from adapter_export.merging.receipt import Identity, entry, identify, read_receipt, refuse_repeated
from adapter_export.merging.shared_tables import refuse_shared
from adapter_export.merging.stream import copy_file, write_file
from adapter_export.merging.weights import WeightHeaders, read_weight_headers
from adapter_export.outputs.files import sync, write_json
from adapter_export.outputs.folder import output_folder, require_space
from adapter_export.outputs.ownership import CARD, SIDECAR, listing
from adapter_export.reading.files import size_of
from adapter_export.reading.folders import existing_folder
from adapter_export.reading.links import follows_links

_log = logging.getLogger(__name__)
_CONFIG = "config.json"
# Number of files that are written at the same time. More would only compete for the disk.
_WORKERS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class MergeResult:
    """The result of a merge.

    Attributes:
        output: Folder of the merged model.
        changed: Names of the scaled tensors in it.
        head: Whether a task head was merged too.
        architecture: Class of the merged model.
        left_out: Files of the base model's folder that were not copied, such as its weights in other formats.
    """

    output: Path
    changed: tuple[str, ...]
    head: bool
    architecture: str
    left_out: tuple[str, ...] = ()


@follows_links("model", "adapter")
def merge(
    model: str | Path,
    adapter: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    task: str = AUTO,
    labels: Mapping[str, Sequence[str]] | Sequence[str] = (),
    force: bool = False,
    progress: Progress | None = None,
    follow_links: bool = False,
) -> MergeResult:
    """Writes a model folder that `from_pretrained` loads, and that computes what base model and adapters compute
    together.

    Weights keep their dtype: W' = round(float64(W) * float64(l1) * float64(l2) ...), rounded once. An adapter's task
    head becomes the model's. All other files are copied. A receipt (`adapter_export.json`) lists what was merged into
    what. README.md is a new model card, and the base model's own one becomes README.base.md. The memory that this takes
    does not depend on the size of the model. Neither torch nor transformers is imported.

    Args:
        model: Folder of the base model, or `org/name@revision` on the Hugging Face hub.
        adapter: Folder of an adapter, or several, or such names on the hub.
        output: Folder to write.
        task: Task of a task head, where the checkpoint does not state it; `features` leaves task heads out.
        labels: Class names of the task head; by the name of the adapter's folder if there are several adapters. Without
            labels, those of the checkpoint are used, or those of the base model if their number fits.
        force: Whether to replace the content of `output`.
        progress: Called with the bytes done, and the bytes in all.
        follow_links: Whether links in the folders of the model and the adapters may lead out of them.

    Raises:
        CannotMerge: The adapter cannot be merged; also if the base model already holds this adapter.
        InputError: An input cannot be used.
    """
    folder, paths = inputs_of(model, adapter)
    with output_folder(output, force, inputs=[folder, *paths]) as written:
        result = _merge(folder, paths, Path(output), written.folder, task, labels, progress)
        written.commit()
        return result


def inputs_of(model: str | Path, adapter: str | Path | Sequence[str | Path]) -> tuple[Path, list[Path]]:
    """The folders of the model and of the adapters. Raises InputError where one is missing."""
    folder = existing_folder(local(model, "model"), "model")
    paths = [local(path, "adapter") for path in ([adapter] if isinstance(adapter, str | Path) else adapter)]
    if not paths:
        raise InputError("merge: expected at least one adapter, found none")
    return folder, paths


@dataclass(frozen=True)
class Prepared:
    """A merge that was read and checked, before anything is written. changes: by the name on disk. kept, left: files of
    the model's folder that come along, and those that do not. origin: where its parts come from, and their licenses."""

    layout: ModelFolder
    receipt: list[dict[str, Any]]
    adapters: list[Adapter]
    identities: list[Identity]
    changes: Mapping[str, TensorChange]
    head: HeadChange | None
    plans: list[FilePlan]
    kept: list[str]
    left: list[str]
    origin: Origin

    @property
    def architecture(self) -> str:
        """Class of the merged model."""
        return self.head.architecture if self.head else self.layout.architecture


def prepare(
    folder: Path, paths: Sequence[Path], task: str, labels: Mapping[str, Sequence[str]] | Sequence[str]
) -> Prepared:
    """Read the model and the adapters, and decide what becomes of every tensor and file. Raises as `merge`."""
    layout = _read_model(folder)
    receipt = read_receipt(folder)
    given = _given(labels, paths)
    loaded = [
        _read_adapter(layout, path, task, given.get(name)) for path, name in zip(paths, names_of(paths), strict=True)
    ]
    adapters = [one for one, _ in loaded]
    identities = [identify(path, one) for path, one in zip(paths, adapters, strict=True)]
    refuse_repeated(folder, receipt, identities)
    changes = plan_changes(layout, adapters)
    head = _head(layout, loaded)
    refuse_shared(layout, changes.values(), head.architecture if head else layout.architecture)
    plans = plan_files(layout, changes, head)
    replaced = {INDEX, SIDECAR, *([_CONFIG] if head else []), *([CARD] if has_own_card(folder) else [])}
    kept, left = companions(folder, frozenset({*layout.weights.files, *replaced}))
    origin = origin_of(folder, kept, receipt, zip(paths, adapters, strict=True))
    return Prepared(layout, receipt, adapters, identities, changes, head, plans, kept, left, origin)


def _merge(
    folder: Path,
    paths: Sequence[Path],
    output: Path,
    temporary: Path,
    task: str,
    labels: Mapping[str, Sequence[str]] | Sequence[str],
    progress: Progress | None,
) -> MergeResult:
    prepared = prepare(folder, paths, task, labels)
    layout, head = prepared.layout, prepared.head
    total, new = bytes_of(prepared)
    shared = can_share(layout.folder / prepared.plans[0].source.path.name, temporary)
    require_space(temporary, new if shared else total, output)
    digest = _Digest(folder)
    _write(layout, prepared.plans, head, prepared.kept, prepared.origin.renamed, temporary, progress)
    sha256 = digest.result()
    entries = []
    for path, one, identity in zip(paths, prepared.adapters, prepared.identities, strict=True):
        check_base(path, one, sha256)
        named = _named(plan_changes(layout, [one]), head)
        entries.append(entry(identity, one, sha256, named, source_of(folder), prepared.origin.base_license))
    entries = [*prepared.receipt, *entries]
    write_origin(temporary, prepared.origin, entries, prepared.architecture)
    write_json(temporary / SIDECAR, {"merged": entries, OWN_CARD: True, "files": listing(temporary)})
    return MergeResult(
        output,
        tuple(_named(prepared.changes, head)),
        head is not None,
        prepared.architecture,
        tuple(prepared.left),
    )


def bytes_of(prepared: Prepared) -> tuple[int, int]:
    """Bytes of the merged model, and of them those that no file of the base model has."""
    folder, plans = prepared.layout.folder, prepared.plans
    new = sum(part.entry.size for plan in plans for part in plan.parts if part.change or part.content is not None)
    return sum(plan.size for plan in plans) + sum(size_of(folder / name, folder) for name in prepared.kept), new


def _read_model(folder: Path) -> ModelFolder:
    config = model_config(folder)
    weights = read_weight_headers(folder, config)
    try:
        # Tensors of narrow types are not refused here: only scaling one is an error, copying one is not.
        refuse_quantized(folder, config, types=False)
    except InputError as error:
        raise CannotMerge(str(error)) from None
    if adapter_beside(folder):
        _log.warning(
            "model %s: an adapter lies in this folder (%s); it is no part of the base model, and is neither merged nor "
            "copied",
            folder,
            ADAPTER_CONFIG,
        )
    return read_model_folder(folder, config, weights)


def names_of(adapters: Sequence[Path]) -> list[str]:
    """Returns names for adapters that were given without names: those of their folders, as in the receipt."""
    return [path.resolve().name for path in adapters]


def _given(labels: Mapping[str, Sequence[str]] | Sequence[str], paths: Sequence[Path]) -> Mapping[str, Sequence[str]]:
    """Returns class names by the name of the adapter's folder."""
    if isinstance(labels, Mapping):
        given = labels
    elif labels and len(paths) > 1:
        raise InputError(f"labels: expected names by adapter ({', '.join(names_of(paths))}), as there are several")
    else:
        given = {names_of(paths)[0]: labels} if labels else {}
    check_given(given, names_of(paths))
    return given


def _read_adapter(
    layout: ModelFolder, path: Path, asked: str, labels: Sequence[str] | None
) -> tuple[Adapter, str | None]:
    """Returns the adapter, placed in the model, and the task of its head; the model's task if the adapter states
    none.
    """
    checkpoint = read_checkpoint(path)
    one = stated_task(checkpoint, layout.config)
    task = choose_task(asked, {path.resolve().name: one}, layout.config) or tasks.of_config(layout.config)
    # An adapter without a head leaves the model's own head as it is, whatever its task.
    task = task if task in tasks.TASKS else None
    experts = any(EXPERT in name for name in checkpoint.tensors)
    adapter = load_adapter(
        path, layout.info(task, experts), task=task or "", leave_head=asked == "features", labels=labels
    )
    check_language_head(layout, adapter)
    check_repeated(layout, adapter)
    return adapter, task


def _head(layout: ModelFolder, loaded: Sequence[tuple[Adapter, str | None]]) -> HeadChange | None:
    changes = [change for one, task in loaded if (change := head_change(layout, one, task)) is not None]
    if len(changes) > 1:
        raise CannotMerge(f"{len(changes)} of the adapters bring a task head of their own, and a model has one")
    return changes[0] if changes else None


def _named(changes: Mapping[str, Any], head: HeadChange | None) -> dict[str, Any]:
    """Returns the changes by their names in the output."""
    return {(head.prefix if head else "") + name: change for name, change in changes.items()}


def _write(
    layout: ModelFolder,
    plans: Sequence[FilePlan],
    head: HeadChange | None,
    kept: Sequence[str],
    renamed: Mapping[str, str],
    target: Path,
    progress: Progress | None,
) -> None:
    total = sum(plan.size for plan in plans) + sum(size_of(layout.folder / name, layout.folder) for name in kept)
    meter = Meter(total, progress)
    with ThreadPoolExecutor(min(_WORKERS, len(plans))) as workers:
        futures = [workers.submit(_write_durably, plan, target / plan.name, meter.tick) for plan in plans]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            # The other threads end when they report their progress the next time.
            meter.stop()
            raise
    for name in kept:
        copy = target / renamed.get(name, name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy_file(layout.folder / name, layout.folder, copy, meter.tick)
    if layout.weights.index is not None:
        write_json(target / INDEX, _index(layout.weights, plans))
    if head is not None:
        changed = {**layout.config, **head.config}
        write_json(target / _CONFIG, {name: value for name, value in changed.items() if value is not None})


def _index(weights: WeightHeaders, plans: Sequence[FilePlan]) -> dict[str, Any]:
    size = sum(part.entry.size for plan in plans for part in plan.parts)
    metadata = weights.index.get("metadata") if weights.index else None
    return {
        "metadata": {**(metadata if isinstance(metadata, dict) else {}), "total_size": size},
        "weight_map": {part.name: plan.name for plan in plans for part in plan.parts},
    }


def _write_durably(plan: FilePlan, target: Path, tick: Tick) -> None:
    write_file(plan, target, tick)
    # The whole folder is synced at the end. That takes less time if this file is on the disk by then.
    sync(target)


class _Digest:
    """The digest of a model folder's weights, computed on a thread of its own while the copy is written.

    The thread is a daemon, so that the process does not wait for it if the merge fails.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._found: str | Exception = ""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._found = weights_sha256(self._folder)
        except Exception as error:
            self._found = error

    def result(self) -> str:
        self._thread.join()
        if isinstance(self._found, Exception):
            raise self._found
        return self._found
