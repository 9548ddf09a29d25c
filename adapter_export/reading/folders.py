"""Folders that a command is given: that they exist, and that a library may read them by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adapter_export.errors import InputError
from adapter_export.reading.files import present, regular_file, size_of
from adapter_export.reading.json_files import read_json_value
from adapter_export.reading.links import leads_out

# The only folder inside a model's folder that transformers reads by itself.
_TEMPLATES = "additional_chat_templates"
# Files with arguments for a tokenizer's class. transformers opens paths that are among them.
_ARGUMENTS = ("tokenizer_config.json", "special_tokens_map.json")
# Fields whose texts are always files.
_FILES = ("_file", "_files", "_spm")
_NAMES = ("init_inputs", "vocab")
# Files that are read as a whole, unlike weights. The largest in use, of vocabularies, have a tenth of the limit.
_READ_WHOLE = (".json", ".jinja", ".txt", ".model", ".spm", ".tiktoken", ".bpe", ".codes", ".vocab")
_MAX_WHOLE_BYTES = 512 << 20
# Longer texts are no paths.
_MAX_PATH = 4096


def existing_folder(path: str | Path, what: str) -> Path:
    """Returns `path` as a Path.

    Args:
        path: The folder.
        what: What the folder holds (`bundle`, `model`), for the error message.

    Raises:
        InputError: `path` is not a folder.
    """
    folder = Path(path)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise InputError(f"{what} {folder}: expected a folder, found {found}")
    return folder


def check_folder(folder: Path) -> None:
    """Checks that all files that transformers may open in the folder are regular files in it.

    Files that are read as a whole must not be too large either. Hidden files and folders inside are never opened, so
    they may be anything.

    Raises:
        InputError: A file is none of these.
    """
    for path in sorted(folder.iterdir()):
        if not path.name.startswith(".") and not path.is_dir():
            _check_size(path, folder)
    if present(templates := folder / _TEMPLATES):
        if leads_out(templates, folder):
            regular_file(templates, folder)
        for path in sorted(templates.iterdir()) if templates.is_dir() else ():
            _check_size(path, folder)
    for name in _ARGUMENTS:
        if present(folder / name):
            _check_arguments(folder / name)


def _check_size(path: Path, folder: Path) -> None:
    size = size_of(path, folder)
    if size > _MAX_WHOLE_BYTES and path.name.endswith(_READ_WHOLE):
        raise InputError(f"{path}: expected a file of at most {_MAX_WHOLE_BYTES >> 20} MiB, found {size:,} bytes")


def _check_arguments(path: Path) -> None:
    """Refuses paths to files elsewhere among a tokenizer's arguments.

    Paths to missing files are allowed: many tokenizers still have a path of the machine that they were made on.
    """
    for name, text in _texts(read_json_value(path)):
        # transformers looks for a path from the current folder, and for a name in the model's folder.
        for found in (Path(text), path.parent / text):
            if present(found) and not found.is_dir() and leads_out(found, path.parent):
                raise InputError(f"{path}: field {name!r}: expected a file in this folder, found {text!r}")


def _texts(value: Any) -> Iterator[tuple[str, str]]:
    """Yields fields, and the texts in them that may become paths.

    Which fields a tokenizer's class opens as files is known to the class only. So texts of any field count, if they
    look like a path.
    """
    for name, item in value.items() if isinstance(value, dict) else ():
        for text in item if isinstance(item, list) else (item,):
            if isinstance(text, str) and len(text) < _MAX_PATH:
                path = Path(text)
                if name.endswith(_FILES) or name in _NAMES or path.is_absolute() or ".." in path.parts:
                    yield name, text
