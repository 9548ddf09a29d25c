"""Follows links, and decides whether a path still leads into its folder.

Links inside a folder are allowed: Kubernetes mounts `manifest.json -> ..data/manifest.json`. So are the links of a
snapshot in the cache of the Hugging Face hub, which lead into the `blobs` of their repository. Any other link is
refused. The folder itself may be a link, as the user named it.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from adapter_export.errors import InputError

_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")

# For each call that is running: its folders, and whether links may lead out of them. It is global, so that it holds in
# all threads of the call, and needs no argument in every reader.
_work: dict[object, tuple[tuple[str, ...], bool]] = {}


def leads_to(path: Path, root: Path | None = None) -> Path:
    """Returns where `path` leads once links are followed. Nothing need exist there.

    Args:
        path: The path.
        root: The folder that must hold it; without it, the folder that `path` is in.

    Raises:
        InputError: A link leads out of the folder.
    """
    if "\0" in str(path):
        raise InputError(f"{str(path)!r}: expected a path without NUL characters")
    root = path.parent if root is None else root
    target, folder = os.path.realpath(path), os.path.realpath(root)
    if not _inside(folder, target) and not _may_lead_out(folder):
        option = "; --follow-links follows it" if _is_offered(folder) else ""
        raise InputError(f"{_link(path, root)}: is a link out of {root}, to {target}; expected a file in it{option}")
    return Path(target)


def folder_of(path: Path) -> Path:
    """Returns the root of a file that the user named, which may be a link to anywhere."""
    return Path(os.path.realpath(path)).parent


def leads_out(path: Path, root: Path) -> bool:
    """Returns whether `path`, in the folder `root`, leads to a file that may not be read as a part of it."""
    folder = os.path.realpath(root)
    return not _inside(folder, os.path.realpath(path)) and not _may_lead_out(folder)


def check_writable(path: Path, root: Path) -> None:
    """Checks that writing, replacing or deleting `path` changes nothing outside the folder `root`.

    No link on the way may lead out of it, not even with `--follow-links`.

    Raises:
        InputError: A link leads out of the folder.
    """
    for part in (path.parent, path):
        if not _below(os.path.realpath(root), target := os.path.realpath(part)):
            raise InputError(
                f"{_link(part, root)}: is a link out of {root}, to {target}; nothing outside that folder is written "
                "or deleted"
            )


def follows_links(*names: str) -> Callable[[Callable[_Params, _Result]], Callable[_Params, _Result]]:
    """Decorates a function whose parameter `follow_links` says whether links may lead out of its folders while it runs.

    Args:
        names: The parameters with folders: a path, several paths, or paths by name.
    """

    def decorate(function: Callable[_Params, _Result]) -> Callable[_Params, _Result]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def wrapper(*args: _Params.args, **kwargs: _Params.kwargs) -> _Result:
            given = signature.bind(*args, **kwargs).arguments
            folders = [path for name in names for path in _paths(given.get(name))]
            with _working_on(folders, follow=bool(given.get("follow_links", False))):
                return function(*args, **kwargs)

        return wrapper

    return decorate


@contextmanager
def _working_on(folders: Sequence[Path], follow: bool) -> Iterator[None]:
    key = object()
    _work[key] = tuple(os.path.realpath(folder) for folder in folders), follow
    try:
        yield
    finally:
        del _work[key]


def _paths(value: object) -> list[Path]:
    if isinstance(value, Mapping):
        return _paths(list(value.values()))
    if isinstance(value, (str, Path)):
        return [] if "\0" in str(value) else [Path(value)]
    return [path for item in value for path in _paths(item)] if isinstance(value, Sequence) else []


def _may_lead_out(folder: str) -> bool:
    return any(follow and any(_below(one, folder) for one in folders) for folders, follow in tuple(_work.values()))


def _is_offered(folder: str) -> bool:
    """Returns whether the running command has the option `--follow-links` for this folder."""
    return any(any(_below(one, folder) for one in folders) for folders, _ in tuple(_work.values()))


def _inside(folder: str, target: str) -> bool:
    return _below(folder, target) or _below(_blobs(folder), target)


def _blobs(folder: str) -> str | None:
    """Returns where the hub's cache keeps the files of a snapshot: `models--.../snapshots/REVISION` ->
    `models--.../blobs`.
    """
    for place in (Path(folder), *Path(folder).parents):
        repository = place.parent.parent
        if place.parent.name == "snapshots" and repository.name.startswith("models--"):
            # If it is a link, which could lead anywhere, no file has this as its real path.
            return str(repository / "blobs")
    return None


def _below(folder: str | None, target: str) -> bool:
    # Compared as texts, since both are real paths and this runs whenever an adapter is loaded.
    return folder is not None and (target == folder or target.startswith(folder.rstrip(os.sep) + os.sep))


def _link(path: Path, root: Path) -> Path:
    """Returns the first link on the way from `root` to `path` that leads out; `path` if it is not found."""
    try:
        parts = path.relative_to(root).parts
    except ValueError:
        return path
    place = root
    for part in parts:
        place /= part
        if place.is_symlink():
            return place
    return path
