"""Where a path leads once links are followed, and whether that is still inside its folder.

Links inside a folder work: Kubernetes mounts `manifest.json -> ..data/manifest.json`. So do those of a snapshot in the
cache of the Hugging Face hub, which lead into the `blobs` of their repository. A link that leads anywhere else is
refused. The folder itself may be a link: the user named it.
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

# Of every piece of work that is being done: its folders, and whether links may lead out of them. Process-wide, so that
# the threads of that work see it, and no reader has to be told.
_work: dict[object, tuple[tuple[str, ...], bool]] = {}


def leads_to(path: Path, root: Path | None = None) -> Path:
    """What `path` is once links are followed, whether something is there or not.

    root: the folder that must hold it; without, the one that `path` is in. Raises InputError for a link that leads out.
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
    """The root of a file that the user named itself, which may be a link to anywhere."""
    return Path(os.path.realpath(path)).parent


def leads_out(path: Path, root: Path) -> bool:
    """Whether `path`, in the folder `root`, leads to something that may not be read as a part of it."""
    folder = os.path.realpath(root)
    return not _inside(folder, os.path.realpath(path)) and not _may_lead_out(folder)


def check_writable(path: Path, root: Path) -> None:
    """Raise InputError unless writing, replacing or deleting `path` stays in the folder `root`: no link on the way
    leads out of it. `--follow-links` does not count here."""
    for part in (path.parent, path):
        if not _below(os.path.realpath(root), target := os.path.realpath(part)):
            raise InputError(
                f"{_link(part, root)}: is a link out of {root}, to {target}; nothing outside that folder is written "
                "or deleted"
            )


def follows_links(*names: str) -> Callable[[Callable[_Params, _Result]], Callable[_Params, _Result]]:
    """The function works on the folders in its parameters `names`: a path, several, or paths by name. Its parameter
    `follow_links` says whether links may lead out of those folders while it runs."""

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
    """Whether the command that runs has `--follow-links` for this folder."""
    return any(any(_below(one, folder) for one in folders) for folders, _ in tuple(_work.values()))


def _inside(folder: str, target: str) -> bool:
    return _below(folder, target) or _below(_blobs(folder), target)


def _blobs(folder: str) -> str | None:
    """Where the hub's cache keeps the files of a snapshot: `models--.../snapshots/REVISION` -> `models--.../blobs`."""
    for place in (Path(folder), *Path(folder).parents):
        repository = place.parent.parent
        if place.parent.name == "snapshots" and repository.name.startswith("models--"):
            # A link in its place could lead anywhere; then nothing has this as its real path.
            return str(repository / "blobs")
    return None


def _below(folder: str | None, target: str) -> bool:
    # As texts, since both are real paths; this runs whenever an adapter is loaded.
    return folder is not None and (target == folder or target.startswith(folder.rstrip(os.sep) + os.sep))


def _link(path: Path, root: Path) -> Path:
    """The link on the way from `root` to `path` that leads out: the first; `path` where a link cannot be told."""
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
