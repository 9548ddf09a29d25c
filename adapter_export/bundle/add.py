"""Adds adapters to a bundle, without torch and without tracing."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from adapter_export import tasks
from adapter_export.bundle.adapter_file import (
    MAX_ADAPTER_BYTES,
    adapter_tensors,
    check_adapter,
    write_adapter_file,
)
from adapter_export.bundle.card import write_card
from adapter_export.bundle.foreign_files import describe_outside, is_adapter_file, read_outside_file
from adapter_export.bundle.manifest import (
    ADAPTER_LICENSES,
    ADAPTER_SUFFIX,
    ADAPTERS,
    AdapterInfo,
    Manifest,
    adapter_path,
    license_owner,
    license_path,
    read_manifest,
    write_manifest,
)
from adapter_export.bundle.modes import Mode
from adapter_export.checkpoints.adapter import LM_HEAD, Adapter
from adapter_export.checkpoints.folder import load_adapter, read_checkpoint
from adapter_export.checkpoints.labels import check_given
from adapter_export.checkpoints.licenses import MAX_LICENSE_BYTES, license_files, write_license_files
from adapter_export.checkpoints.problem_types import with_problem_type
from adapter_export.checkpoints.stated_task import AUTO, StatedTask, refuse_contradiction, refuse_unserved, stated_task
from adapter_export.errors import InputError, OutputExists
from adapter_export.hub import local
from adapter_export.naming import check_adapter_name
from adapter_export.outputs.files import sync
from adapter_export.outputs.lock import LOCK_TIMEOUT
from adapter_export.outputs.ownership import CARD, MANIFEST
from adapter_export.outputs.signals import deferred, raise_if_received, work_is_done
from adapter_export.outputs.workspace import Workspace, workspace
from adapter_export.reading.files import present, read_bytes
from adapter_export.reading.folders import existing_folder
from adapter_export.reading.hashes import sha256
from adapter_export.reading.json_files import read_json
from adapter_export.reading.links import check_writable, follows_links

_log = logging.getLogger(__name__)
# What `add` and `remove` write or delete in a bundle, besides the card.
WRITTEN = (MANIFEST, ADAPTERS, ADAPTER_LICENSES)


def graph_tensors(what: str, adapter: Adapter, manifest: Manifest) -> dict[str, np.ndarray]:
    """Returns the adapter's tensors by name, in the dtypes of the bundle's graph.

    The task head is left out if the graph has none (task `features`), and required if the base model has none.

    Args:
        what: Name of the adapter in messages.
        adapter: The adapter.
        manifest: The manifest of the bundle.

    Raises:
        InputError: The adapter does not fit the graph.
    """
    _check_reads(what, adapter, manifest)
    return fitting(what, adapter_tensors(adapter if manifest.heads else replace(adapter, head={})), manifest)


def fitting(what: str, tensors: Mapping[str, np.ndarray], manifest: Manifest) -> dict[str, np.ndarray]:
    """Returns tensors in the dtypes of the bundle's graph. Raises InputError if they do not fit it."""
    expected = manifest.tensors
    with np.errstate(over="ignore"):  # what becomes infinite is refused below
        cast = {
            # A model in half precision may have places that compute in float32. What has no place is refused below.
            name: tensor.astype(expected[name].dtype.numpy) if name in expected else tensor
            for name, tensor in tensors.items()
        }
    check_adapter(what, cast, manifest)
    return cast


def _check_reads(what: str, adapter: Adapter, manifest: Manifest) -> None:
    """Raises InputError if the graph reads other modules at a site than the adapter was trained with.

    The names of the tensors do not show this.
    """
    reads = {next(iter(info.tensors)).rpartition(".")[0]: info.reads for info in manifest.sites}
    for site, site_adapter in adapter.sites.items():
        known = reads.get(f"{site.name}.{site_adapter.operator.op_name}")
        if known is not None and known != site.reads:
            raise InputError(
                f"{what}: site {site.name}: reads {site.reads}, the bundle's graph {dict(known)}; export the bundle "
                "anew"
            )


def refuse_in_graph(folder: Path, manifest: Manifest) -> None:
    """Raises InputError if the bundle holds its adapter in the graph, so that none can be added or removed."""
    if manifest.mode.in_graph:
        expected = " or ".join(Mode.that_take_adapters())
        raise InputError(f"bundle {folder}: mode {manifest.mode!r} holds its adapter in the graph; expected {expected}")


def write_adapter(folder: Path, name: str, adapter: Adapter, manifest: Manifest) -> AdapterInfo:
    """Writes `folder/NAME.onnx_adapter`, and returns the adapter's entry for the manifest.

    Args:
        folder: The folder to write to.
        name: Name of the adapter.
        adapter: The adapter.
        manifest: The manifest of the bundle.

    Raises:
        InputError: The adapter does not fit the graph.
        OSError: The file could not be written.
    """
    path = folder / f"{name}{ADAPTER_SUFFIX}"
    write_adapter_file(path, graph_tensors(f"adapter {name}", adapter, manifest), manifest.base.sha256)
    return replace(describe_adapter(name, adapter), sha256=sha256(path), file=adapter_path(name))


def describe_adapter(name: str, adapter: Adapter) -> AdapterInfo:
    """Returns the entry of an adapter in the manifest, without its file."""
    labels = adapter.label_names if adapter.num_labels is not None else None
    return AdapterInfo(
        name,
        adapter.method,
        adapter.source_format,
        "",
        adapter.parameters,
        labels,
        labels_given=adapter.labels_given,
        source=adapter.source,
        problem_type=adapter.problem_type if labels else None,
        source_sha256=adapter.source_sha256,
        license=adapter.license,
    )


@follows_links("adapters")
def add_adapter(
    bundle: str | Path,
    adapters: Mapping[str, str | Path],
    *,
    force: bool = False,
    task: str = AUTO,
    labels: Mapping[str, Sequence[str]] = MappingProxyType({}),
    lock_timeout: float = LOCK_TIMEOUT,
    follow_links: bool = False,
) -> Manifest:
    """Adds adapter checkpoints to a bundle of mode swappable or bank: all of them, or none.

    After an error or a power cut, the bundle is either the old one or the new one: its files are always those that its
    manifest lists. Sessions that have the bundle open continue to work, and can load the new adapters.

    Args:
        bundle: Folder of the bundle.
        adapters: Folders of the checkpoints by the names of the adapters; or `.onnx_adapter` files, see
            `foreign_files.read_outside_file`.
        force: Whether to replace adapters of the same names.
        task: `auto`, or the task of the bundle. For a bundle of the task `features`, the word `features` is needed to
            add adapters without their task heads.
        labels: Class names by adapter, in place of those of the checkpoint.
        lock_timeout: How long to wait for another command that writes to the bundle, in seconds.
        follow_links: Whether symbolic links in the folders of the adapters may lead out of them.

    Returns:
        The new manifest.

    Raises:
        InputError: The bundle is of another mode, or an adapter does not fit its graph, its task or its base model.
        OutputExists: A name is in use, and `force` is False.
        OutputBusy: Another command holds the bundle for longer than `lock_timeout`.
    """
    folder = existing_folder(bundle, "bundle")
    paths = {name: Path(path) if is_adapter_file(path) else local(path, "adapter") for name, path in adapters.items()}
    for place in WRITTEN:
        check_writable(folder / place, folder)
    read_manifest(folder)
    with workspace(folder.resolve(), inside=True, wait=lock_timeout) as own:
        # Another command may have changed the bundle since.
        before = read_manifest(folder)
        _check_request(folder, before, paths, force)
        check_given(labels, paths)
        if task not in (AUTO, before.task):
            raise InputError(f"bundle {folder}: --task {task}: the bundle is for {before.task}")
        config = _config(folder, before)
        # Complete files are written to the workspace, then moved into the bundle.
        own.new.mkdir()
        after = replace(before, card=may_have_card(folder, before))
        for name, path in paths.items():
            if is_adapter_file(path):
                info, licenses = _add_file(own.new, name, path, before, labels), {}
            else:
                info = _add_checkpoint(own.new, name, path, before, config, task, labels.get(name))
                licenses = _write_licenses(own.new, name, path)
            after = after.with_adapter(_beside_the_old(info, before), _licenses_beside_the_old(licenses, before))
        raise_if_received()
        with deferred():
            _commit(own, before, after)
            work_is_done()
            return _at_their_places(own, before, after)


def _add_checkpoint(
    folder: Path,
    name: str,
    path: Path,
    before: Manifest,
    config: Mapping[str, Any],
    task: str,
    labels: Sequence[str] | None,
) -> AdapterInfo:
    """Writes the adapter of a checkpoint into `folder`, and returns its entry. Raises as `add_adapter`."""
    _check_task(name, stated_task(read_checkpoint(path), config), task, before)
    adapter = load_adapter(
        path,
        before.base,
        task=before.task,
        leave_head=task == "features",
        labels=labels,
    )
    adapter = with_problem_type(adapter, config)
    for repeated in (*adapter.repeated, *({LM_HEAD} & set(adapter.head))):
        raise InputError(
            f"adapter {name}: carries {repeated!r}, which only an export beside the base model can "
            "compare; export the bundle anew with this adapter"
        )
    if before.base.pooler in adapter.head and before.base.pooler not in before.base.head:
        raise InputError(
            f"adapter {name}: its head begins with the pooler ({before.base.pooler}), which this bundle's "
            "graph does not swap; export the bundle anew with this adapter"
        )
    _check_padding(name, adapter, config, before)
    return write_adapter(folder, name, adapter, before)


def _add_file(
    folder: Path, name: str, path: Path, before: Manifest, labels: Mapping[str, Sequence[str]]
) -> AdapterInfo:
    """Writes the adapter of an `.onnx_adapter` file into `folder`, and returns its entry. Raises as `add_adapter`."""
    if name in labels:
        raise InputError(f"--labels {name}: {path} is an adapter file, which has no task head that can be added")
    tensors = fitting(str(path), read_outside_file(path, before), before)
    info = describe_outside(name, tensors, before)
    written = folder / f"{name}{ADAPTER_SUFFIX}"
    write_adapter_file(written, tensors, before.base.sha256)
    return replace(info, sha256=sha256(written), file=adapter_path(name), source_sha256=sha256(path))


def _config(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """Returns the bundle's model config. Older bundles may not have one; then it has only the model type."""
    path = folder / "config.json"
    return read_json(path) if present(path) else {"model_type": manifest.base.model_type}


def _check_task(name: str, one: StatedTask, asked: str, manifest: Manifest) -> None:
    """Raises InputError if the adapter's task head would be dropped without consent, or is for another task."""
    if manifest.task == "features":
        if one.head and asked != "features":
            raise InputError(
                f"adapter {name}: brings a task head ({', '.join(one.head)}), and the bundle is for features, which "
                "has no place for it; --task features adds the body without the head"
            )
        return
    refuse_unserved(name, one)
    refuse_contradiction(name, one, manifest.task, f"the bundle's task {manifest.task}")


def _check_padding(name: str, adapter: Adapter, config: Mapping[str, Any], manifest: Manifest) -> None:
    """Raises InputError if the adapter was trained with another padding token than the graph was traced with.

    The graph finds the end of a text by this token.
    """
    own = config.get("pad_token_id")
    if adapter.pad_token_id not in (None, own) and tasks.get(manifest.task).labelled:
        raise InputError(
            f"adapter {name}: was trained with padding token {adapter.pad_token_id}, but the bundle's graph pads with "
            f"{own}"
        )


def _check_request(folder: Path, manifest: Manifest, adapters: Mapping[str, object], force: bool) -> None:
    if not adapters:
        raise InputError("expected at least one adapter to add, found none")
    refuse_in_graph(folder, manifest)
    taken = [info.name for info in manifest.adapters]
    for name in map(check_adapter_name, adapters):
        if name in taken and not force:
            raise OutputExists(f"bundle {folder}: already has an adapter {name!r}; pass --force to replace it")
        # On some systems the two names would be one file.
        if alike := [other for other in taken if other != name and other.casefold() == name.casefold()]:
            raise InputError(f"adapter name {name!r}: differs from {alike[0]!r} in upper and lower case only")
        taken.append(name)


def _beside_the_old(info: AdapterInfo, before: Manifest) -> AdapterInfo:
    """Returns the entry with another file name if the adapter replaces one.

    The old manifest needs the old file until it is replaced.
    """
    if info.file not in before.files:
        return info
    return replace(info, file=adapter_path(info.name, info.sha256))


def _write_licenses(folder: Path, name: str, checkpoint: str | Path) -> dict[str, str]:
    """Writes the license files of an adapter into `folder`. Returns their sha256 by their paths."""
    files = license_files(Path(checkpoint))
    write_license_files(files, folder / ADAPTER_LICENSES / name)
    return {path: sha256(folder / path) for path in (license_path(name, file) for file in files)}


def _licenses_beside_the_old(licenses: Mapping[str, str], before: Manifest) -> dict[str, str]:
    """Returns license files with other paths for those that replace a file of another content. Others stay as they
    are.
    """
    return {
        path if before.files.get(path, digest) == digest else _versioned(path, digest): digest
        for path, digest in licenses.items()
    }


def _versioned(path: str, digest: str) -> str:
    return license_path(license_owner(path) or "", path.rpartition("/")[2], digest)


def _commit(own: Workspace, before: Manifest, after: Manifest) -> None:
    """Moves the new files into the bundle, then replaces the manifest. That single step makes the adapters valid."""
    added = [info for info in after.adapters if info not in before.adapters]
    # If this process is killed, the next command deletes those of these files that the manifest does not list then.
    own.note_placed({*before.files, *after.files} - ({*before.files} & {*after.files}))
    try:
        for info in added:
            _move_in(own, f"{info.name}{ADAPTER_SUFFIX}", _file(info))
        for path in sorted({*after.files} - {*before.files}):
            if license_owner(path) is not None:
                _move_in(own, _versioned(path, ""), path)
        replace_manifest(own, after)
    except BaseException:
        own.withdraw()
        raise


def _at_their_places(own: Workspace, before: Manifest, after: Manifest) -> Manifest:
    """Renames the files of replaced adapters to their usual names, which the new manifest has freed.

    The adapters are already added. If this fails, the manifest continues to list the present names.
    """
    moved = after
    try:
        for info in after.adapters:
            licenses = after.licenses(info.name)
            if info.file in (None, adapter_path(info.name)) and all(path == _versioned(path, "") for path in licenses):
                continue
            file = _file_at_its_place(own, info)
            licenses = {_license_at_its_place(own, path): digest for path, digest in licenses.items()}
            moved = moved.with_adapter(replace(info, file=file), licenses)
        if moved != after:
            own.note_placed({*after.files} - {*moved.files})
            replace_manifest(own, moved)
    except (OSError, InputError):
        return after
    finally:
        own.withdraw()
    return moved


def _file_at_its_place(own: Workspace, info: AdapterInfo) -> str | None:
    """Puts the file of an adapter at its usual path too, which is returned."""
    if info.file in (None, usual := adapter_path(info.name)):
        return info.file
    data = read_bytes(own.target / _file(info), MAX_ADAPTER_BYTES, own.target)
    (own.new / f"{info.name}{ADAPTER_SUFFIX}").write_bytes(data)
    _move_in(own, f"{info.name}{ADAPTER_SUFFIX}", usual)
    return usual


def _license_at_its_place(own: Workspace, path: str) -> str:
    """Puts a license file at its usual path too, which is returned."""
    if path == (usual := _versioned(path, "")):
        return path
    data = read_bytes(own.target / path, MAX_LICENSE_BYTES, own.target)
    (own.new / usual).parent.mkdir(parents=True, exist_ok=True)
    (own.new / usual).write_bytes(data)
    _move_in(own, usual, usual)
    return usual


def _move_in(own: Workspace, name: str, path: str) -> None:
    """Moves a complete file of the workspace to its path in the bundle."""
    check_writable(own.target / path, own.target)
    (own.target / path).parent.mkdir(parents=True, exist_ok=True)
    sync(own.new / name)
    (own.new / name).replace(own.target / path)
    sync((own.target / path).parent)


def may_have_card(folder: Path, manifest: Manifest) -> bool:
    """Returns whether README.md in a bundle is the model card, or there is none. Bundles of older versions have no
    card, so a README.md in them is the user's.
    """
    return manifest.card or not present(folder / CARD)


def replace_manifest(own: Workspace, manifest: Manifest) -> None:
    """Writes the manifest in the workspace, and replaces that of the bundle in one step. Then the model card follows.

    If the card cannot be written, this is a note: the bundle is complete with the new manifest.
    """
    write_manifest(own.new, manifest)
    _move_in(own, MANIFEST, MANIFEST)
    if manifest.card:
        try:
            write_card(own.new, manifest)
            _move_in(own, CARD, CARD)
        except (OSError, InputError) as error:
            _log.warning("bundle %s: %s is not up to date, as it could not be written: %s", own.target, CARD, error)


def _file(info: AdapterInfo) -> str:
    assert info.file is not None
    return info.file
