"""Putting adapters into a bundle: no torch, no tracing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from adapter_export import tasks
from adapter_export.bundle.adapter_file import (
    HEAD_SLUG,
    MAX_ADAPTER_BYTES,
    adapter_tensors,
    check_adapter,
    write_adapter_file,
)
from adapter_export.bundle.adapter_format import numpy_dtype
from adapter_export.bundle.manifest import (
    ADAPTER_SUFFIX,
    ADAPTERS,
    MANY,
    AdapterInfo,
    Manifest,
    adapter_path,
    read_manifest,
    write_manifest,
)
from adapter_export.checkpoints.adapter import LM_HEAD, Adapter
from adapter_export.checkpoints.files import existing_folder, read_json, sha256
from adapter_export.checkpoints.folder import load_adapter, read_checkpoint
from adapter_export.checkpoints.labels import check_given
from adapter_export.checkpoints.problem_types import with_problem_type
from adapter_export.checkpoints.told import AUTO, Told, refuse_contradiction, refuse_unserved, told
from adapter_export.errors import InputError, OutputExists
from adapter_export.hub import local
from adapter_export.naming import check_adapter_name
from adapter_export.outputs.files import sync
from adapter_export.outputs.ownership import MANIFEST
from adapter_export.outputs.signals import deferred, raise_if_received, work_is_done
from adapter_export.outputs.workspace import Workspace, workspace
from adapter_export.reading.files import present, read_bytes
from adapter_export.reading.links import check_writable, follows_links

# Seconds to wait for another command that writes the bundle.
LOCK_TIMEOUT = 60.0


def graph_tensors(what: str, adapter: Adapter, manifest: Manifest) -> dict[str, np.ndarray]:
    """The adapter's tensors as the bundle's graph takes them; raises InputError where they do not fit it.

    A task head is left out where the graph has none (task `features`), and required where the base model has none.
    """
    _check_reads(what, adapter, manifest)
    tensors = adapter_tensors(adapter)
    if all(site.method != HEAD_SLUG for site in manifest.sites):
        tensors = {name: tensor for name, tensor in tensors.items() if name.split(".")[-2] != HEAD_SLUG}
    expected = manifest.tensors
    with np.errstate(over="ignore"):  # what becomes infinite is refused below
        tensors = {
            # A model in half precision may have places that compute in float32. What has no place is refused below.
            name: tensor.astype(numpy_dtype(expected[name].dtype)) if name in expected else tensor
            for name, tensor in tensors.items()
        }
    check_adapter(what, tensors, manifest)
    return tensors


def _check_reads(what: str, adapter: Adapter, manifest: Manifest) -> None:
    """Raise InputError where the graph reads other modules at a place of the adapter than the adapter was trained with:
    its tensors have the same names all the same."""
    reads = {next(iter(info.tensors)).rpartition(".")[0]: info.reads for info in manifest.sites}
    for site, block in adapter.blocks.items():
        known = reads.get(f"{site.name}.{block.operator.slug}")
        if known is not None and known != site.reads:
            raise InputError(
                f"{what}: site {site.name}: reads {site.reads}, the bundle's graph {dict(known)}; export the bundle "
                "anew"
            )


def write_adapter(folder: Path, name: str, adapter: Adapter, manifest: Manifest) -> AdapterInfo:
    """Write `folder/NAME.onnx_adapter` for the graph that `manifest` describes."""
    path = folder / f"{name}{ADAPTER_SUFFIX}"
    write_adapter_file(path, graph_tensors(f"adapter {name}", adapter, manifest), manifest.base.sha256)
    return replace(describe_adapter(name, adapter), sha256=sha256(path), file=adapter_path(name))


def describe_adapter(name: str, adapter: Adapter) -> AdapterInfo:
    """What a manifest says of an adapter, before it has a file."""
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
    """Add adapter checkpoints to a bundle of mode swappable or bank; all of them, or none. Returns the new manifest.

    Whenever this ends, by an error or a power cut, the manifest and the files it names belong together: the bundle is
    the old one or the new one. Sessions that have it open go on, and see the new adapters when asked to load them.

    task: of the bundle, which `auto` takes; `features`, for a bundle of that task, is the consent to leave task heads
    out. labels: class names by adapter, which win over those of the checkpoint. lock_timeout: seconds to wait for
    another command that writes the bundle. follow_links: whether links in the adapters' folders may lead out of them.

    Raises InputError for a bundle of another mode, an adapter that does not fit its graph, its task or its base model;
    OutputExists for a name in use, unless `force` replaces it; OutputBusy when the other command takes longer.
    """
    folder = existing_folder(bundle, "bundle")
    adapters = {name: local(path, "adapter") for name, path in adapters.items()}
    for place in (MANIFEST, ADAPTERS):
        check_writable(folder / place, folder)
    read_manifest(folder)
    with workspace(folder.resolve(), inside=True, wait=lock_timeout) as own:
        # Another command may have changed it meanwhile.
        before = read_manifest(folder)
        _check_request(folder, before, adapters, force)
        check_given(labels, adapters)
        if task not in (AUTO, before.task):
            raise InputError(f"bundle {folder}: --task {task}: the bundle is for {before.task}")
        config = _config(folder, before)
        # Complete files are made beside the bundle's, then moved in.
        own.new.mkdir()
        after = before
        for name, path in adapters.items():
            _check_task(name, told(read_checkpoint(path), config), task, before)
            adapter = load_adapter(
                path,
                before.base,
                task=before.task,
                leave_head=task == "features",
                labels=labels.get(name),
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
            info = write_adapter(own.new, name, adapter, before)
            after = after.with_adapter(_beside_the_old(info, before))
        raise_if_received()
        with deferred():
            _commit(own, before, after)
            work_is_done()
            return _at_their_places(own, before, after)


def _config(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """The bundle's model config, which older bundles may lack."""
    path = folder / "config.json"
    return read_json(path) if present(path) else {"model_type": manifest.base.model_type}


def _check_task(name: str, one: Told, asked: str, manifest: Manifest) -> None:
    """No head is dropped, and none put where another belongs; raises InputError."""
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
    """The graph finds the end of a text by the padding token it was traced with; raises InputError for another."""
    own = config.get("pad_token_id")
    if adapter.pad_token_id not in (None, own) and tasks.get(manifest.task).labelled:
        raise InputError(
            f"adapter {name}: was trained with padding token {adapter.pad_token_id}, but the bundle's graph pads with "
            f"{own}"
        )


def _check_request(folder: Path, manifest: Manifest, adapters: Mapping[str, object], force: bool) -> None:
    if not adapters:
        raise InputError("expected at least one adapter to add, found none")
    if manifest.mode not in MANY:
        raise InputError(
            f"bundle {folder}: mode {manifest.mode!r} holds its adapter in the graph; expected {' or '.join(MANY)}"
        )
    taken = [info.name for info in manifest.adapters]
    for name in map(check_adapter_name, adapters):
        if name in taken and not force:
            raise OutputExists(f"bundle {folder}: already has an adapter {name!r}; pass --force to replace it")
        # On some systems the two names would be one file.
        if alike := [other for other in taken if other != name and other.casefold() == name.casefold()]:
            raise InputError(f"adapter name {name!r}: differs from {alike[0]!r} in upper and lower case only")
        taken.append(name)


def _beside_the_old(info: AdapterInfo, before: Manifest) -> AdapterInfo:
    """A replaced adapter's new file gets a name of its own: the old manifest needs the old file until it is gone."""
    if info.file not in before.files:
        return info
    return replace(info, file=adapter_path(info.name, info.sha256))


def _commit(own: Workspace, before: Manifest, after: Manifest) -> None:
    """Move the new files in, then replace the manifest, which makes them count in one step."""
    added = [info for info in after.adapters if info not in before.adapters]
    # Of these the manifest that stands in the end names the right ones, after a kill as well.
    own.note_placed({*before.files, *after.files} - ({*before.files} & {*after.files}))
    try:
        for info in added:
            _move_in(own, f"{info.name}{ADAPTER_SUFFIX}", _file(info))
        replace_manifest(own, after)
    except BaseException:
        own.withdraw()
        raise


def _at_their_places(own: Workspace, before: Manifest, after: Manifest) -> Manifest:
    """Give replaced adapters the usual names of their files again, now that no manifest needs the old ones.

    The adapters are in already: where this fails, the manifest goes on naming the files they have.
    """
    moved = after
    try:
        for info in after.adapters:
            if info.file is not None and info.file != adapter_path(info.name):
                data = read_bytes(own.target / info.file, MAX_ADAPTER_BYTES, own.target)
                (own.new / f"{info.name}{ADAPTER_SUFFIX}").write_bytes(data)
                _move_in(own, f"{info.name}{ADAPTER_SUFFIX}", adapter_path(info.name))
                moved = moved.with_adapter(replace(info, file=adapter_path(info.name)))
        if moved != after:
            own.note_placed({*after.files} - {*moved.files})
            replace_manifest(own, moved)
    except (OSError, InputError):
        return after
    finally:
        own.withdraw()
    return moved


def _move_in(own: Workspace, name: str, path: str) -> None:
    """A complete file of the workspace to its path in the bundle."""
    check_writable(own.target / path, own.target)
    (own.target / path).parent.mkdir(exist_ok=True)
    sync(own.new / name)
    (own.new / name).replace(own.target / path)
    sync((own.target / path).parent)


def replace_manifest(own: Workspace, manifest: Manifest) -> None:
    """Write the manifest in the workspace, and put it in the place of the bundle's in one step."""
    write_manifest(own.new, manifest)
    _move_in(own, MANIFEST, MANIFEST)


def _file(info: AdapterInfo) -> str:
    assert info.file is not None
    return info.file
