"""Fetches models and adapters from the Hugging Face hub, for `org/name[@revision]` in place of a folder."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from adapter_export.errors import InputError

_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
# The folder of one commit of a repository in the hub's own cache.
_SNAPSHOT = re.compile(r"models--(?P<owner>[^/]+?)--(?P<name>.+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# Weights as safetensors, settings, tokenizers; the pickles of adapters, which are read without running them; the model
# card and license files.
_FILES = (
    "*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "adapter_model.bin", "pytorch_adapter.bin",
    "pytorch_model_head.bin", "README.md", "LICENSE*", "LICENCE*", "NOTICE*", "COPYING*", "license*", "License*",
)  # fmt: skip
# Subfolders hold other forms of the weights. The others are files that trainers leave.
_SKIPPED = ("*/*", "training_args*", "optimizer*")
_SECONDS = 10.0


def local(path: str | Path, what: str) -> Path:
    """Returns the folder at `path`. If there is none and `path` is `org/name[@revision]`, it is fetched from the hub.

    Weights as safetensors, settings, tokenizers, the .bin files of adapters, README.md and license files are fetched
    into the hub's own cache (HF_HOME). HF_HUB_OFFLINE, HF_ENDPOINT and HF_TOKEN have their usual meaning.

    Args:
        path: A folder or a name.
        what: `model` or `adapter`, for error messages.

    Raises:
        InputError: The hub cannot be reached, or has no such repository or revision.
    """
    match = _ID.fullmatch(str(path))
    if match is None or Path(path).exists():
        return Path(path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    quiet = not sys.stderr.isatty() and not are_progress_bars_disabled()
    if quiet:
        disable_progress_bars()
    try:
        folder = snapshot_download(
            match["repo"],
            revision=match["revision"],
            allow_patterns=list(_FILES),
            ignore_patterns=list(_SKIPPED),
            etag_timeout=_SECONDS,
        )
    except Exception as error:  # The library passes on any error of its HTTP client.
        raise InputError(f"{what} {path}: is no folder, and {_reason(error)}") from error
    finally:
        if quiet:
            enable_progress_bars()
    return Path(folder)


def source_of(folder: Path) -> str | None:
    """Returns `org/name@commit` for a folder in the hub's cache, and None for any other."""
    folder = folder.absolute()
    match = _SNAPSHOT.fullmatch(folder.parent.parent.name)
    if match is None or folder.parent.name != "snapshots" or not _COMMIT.fullmatch(folder.name):
        return None
    return f"{match['owner']}/{match['name']}@{folder.name}"


def _reason(error: Exception) -> str:
    from huggingface_hub import errors

    match error:
        case errors.GatedRepoError():
            return "the hub gives it only to those who accepted its terms; set HF_TOKEN to a token of theirs"
        case errors.RevisionNotFoundError():
            return "the hub's repository of that name has no such revision"
        case errors.RepositoryNotFoundError():
            return "the hub has no such repository, or it is private (HF_TOKEN)"
        case errors.HFValidationError():
            return "it is no name that the hub can have"
        case errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled():
            return "the hub cannot be reached, or HF_HUB_OFFLINE is set, and it is not in the hub's cache"
    text = " ".join(str(error).split())[:160]
    return f"it cannot be fetched from the hub: {type(error).__name__}: {text}"
