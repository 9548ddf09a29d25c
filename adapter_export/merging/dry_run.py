"""`adapter-export merge --dry-run`: everything that a merge checks, and what it would write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapter_export.checkpoints.folder import check_base
from adapter_export.checkpoints.planned import AdapterPlan, plan_of
from adapter_export.checkpoints.safetensors_header import Entry
from adapter_export.checkpoints.stated_task import AUTO
from adapter_export.checkpoints.weights import weights_sha256
from adapter_export.merging.merge import bytes_of, inputs_of, names_of, prepare
from adapter_export.merging.stream import check_file
from adapter_export.outputs.folder import check_output, require_space
from adapter_export.outputs.notes import gathered_notes
from adapter_export.reading.links import follows_links


@dataclass(frozen=True)
class TensorPlan:
    """A tensor of the merged model: its name there, its dtype as safetensors calls it, its shape and its size."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class MergePlan:
    """What a merge would do.

    Attributes:
        output: Folder that it would write.
        architecture: Class of the merged model.
        base_license: The license that the base model states; None if it states none.
        adapters: The adapters that it would fold in, with their sites.
        changed: Tensors that would be scaled.
        added: Tensors of the task head that would come along.
        dropped: Names of tensors of the base model that would go.
        copied: Files of the base model's folder that would come along as they are.
        left_out: Files of it that would not.
        bytes: Size of all weights and copied files together.
        new_bytes: Size of the changed and added tensors. Nothing else takes room on a disk whose file system lets
            files share their content.
        notes: What the merge would tell beside its result.
    """

    output: Path
    architecture: str
    base_license: str | None
    adapters: tuple[AdapterPlan, ...]
    changed: tuple[TensorPlan, ...]
    added: tuple[TensorPlan, ...]
    dropped: tuple[str, ...]
    copied: tuple[str, ...]
    left_out: tuple[str, ...]
    bytes: int
    new_bytes: int
    notes: tuple[str, ...]


@follows_links("model", "adapter")
def plan_merge(
    model: str | Path,
    adapter: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    task: str = AUTO,
    labels: Mapping[str, Sequence[str]] | Sequence[str] = (),
    force: bool = False,
    follow_links: bool = False,
) -> MergePlan:
    """Checks everything that `merge` checks, with the same errors, and writes nothing.

    The weights are read, to compare them with what the adapters were trained on, and the changed ones are computed and
    dropped again. What `org/name` of the Hugging Face hub names is fetched into the hub's own cache.

    Args:
        model: Folder of the base model.
        adapter: Folder of an adapter, or several.
        output: Folder that the merge would write.
        task: As for `merge`.
        labels: As for `merge`.
        force: Whether the merge may replace an earlier output.
        follow_links: Whether symbolic links in the folders of the model and of the adapters may lead out of them.

    Returns:
        What would be done.

    Raises:
        CannotMerge: The merge would refuse, for this reason.
        InputError: The merge would find bad input.
    """
    with gathered_notes() as notes:
        folder, paths = inputs_of(model, adapter)
        disk = check_output(output, force, inputs=[folder, *paths])
        prepared = prepare(folder, paths, task, labels)
        total, new = bytes_of(prepared)
        shares = _may_share(folder, disk)
        require_space(disk, new if shares else total, output)
        for plan in prepared.plans:
            check_file(plan)
        sha256 = weights_sha256(folder)
        for path, one in zip(paths, prepared.adapters, strict=True):
            check_base(path, one, sha256)
    parts = [part for plan in prepared.plans for part in plan.parts]
    # In the order in which the result of a merge names them.
    order = {id(change): number for number, change in enumerate(prepared.changes.values())}
    changed = sorted((part for part in parts if part.change is not None), key=lambda part: order[id(part.change)])
    return MergePlan(
        Path(output),
        prepared.architecture,
        prepared.origin.base_license,
        tuple(plan_of(name, one) for name, one in zip(names_of(paths), prepared.adapters, strict=True)),
        _tensors((part.name, part.entry) for part in changed),
        _tensors((part.name, part.entry) for part in parts if part.content is not None),
        tuple(sorted(prepared.head.dropped)) if prepared.head else (),
        tuple(prepared.kept),
        tuple(prepared.left),
        total,
        new,
        tuple(notes),
    )


def _tensors(named: Iterable[tuple[str, Entry]]) -> tuple[TensorPlan, ...]:
    return tuple(TensorPlan(name, entry.dtype, tuple(entry.shape), entry.size) for name, entry in named)


def _may_share(folder: Path, disk: Path) -> bool:
    """Whether files of the two folders may share their content: whether they are on one disk. Only a merge tries it."""
    return folder.stat().st_dev == disk.stat().st_dev
