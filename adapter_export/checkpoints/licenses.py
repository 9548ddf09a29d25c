"""What the folder of a model or an adapter states about its license, and its license files."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from adapter_export.errors import InputError
from adapter_export.reading.files import open_file, present, read_bytes
from adapter_export.reading.front_matter import BrokenFrontMatter, Value, front_matter
from adapter_export.reading.shown import shortened

_log = logging.getLogger(__name__)

README = "README.md"
# Bytes at the beginning of README.md that are searched. The longest blocks in use, with results, have a third of it.
_MAX_README_BYTES = 1 << 20
MAX_LICENSE_BYTES = 1 << 20
_MAX_LICENSE_FILES = 32
_MAX_TEXT = 100
# What the hub calls a license that is not in its list; the name then stands in a field of its own.
OTHER = "other"
_FIELDS = ("license", "license_name", "base_model")
_BEGINNING = re.compile(r"(licen[sc]e|notice|copying)", re.IGNORECASE)
# Names that are valid on every system. Manifests allow no others.
_LICENSE_FILE = re.compile(r"(licen[sc]e|notice|copying)([A-Za-z0-9 ._-]{0,80}[A-Za-z0-9_-])?", re.IGNORECASE)
_HUB_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


@dataclass(frozen=True)
class Stated:
    """What the README.md of a folder states.

    Attributes:
        license: The license as the hub writes it (`apache-2.0`), several with a comma between them, or `other (NAME)`;
            None if it is not stated.
        base_model: `org/name` of the base model; None if it is not stated, or is not one name.
    """

    license: str | None = None
    base_model: str | None = None


def stated(folder: Path) -> Stated:
    """Returns what README.md in `folder` states. What cannot be read there is logged as a note, and is not stated."""
    path = folder / README
    if not present(path):
        return Stated()
    try:
        with open_file(path, folder) as file:
            fields = front_matter(file.read(_MAX_README_BYTES), _FIELDS)
    except (BrokenFrontMatter, InputError, OSError) as error:
        _log.warning("%s: its license is not read: %s", path, str(error)[:300])
        return Stated()
    name = _one(path, fields, "base_model")
    return Stated(_license(path, fields), name if name is not None and _HUB_ID.fullmatch(name) else None)


def license_files(folder: Path) -> Mapping[str, bytes]:
    """Returns the license files at the top of a folder by name: LICENSE, LICENCE, NOTICE and COPYING, with any ending.

    Files that are no text, are too large, or are links out of the folder are left out with a note.
    """
    found: dict[str, bytes] = {}
    known: set[str] = set()
    for path in sorted(folder.iterdir()):
        name = path.name
        if _BEGINNING.match(name) is None or path.is_dir():
            continue
        reason = None
        if len(found) == _MAX_LICENSE_FILES:
            _log.warning("%s: %d license files are copied, and no more", folder, _MAX_LICENSE_FILES)
            break
        if _LICENSE_FILE.fullmatch(name) is None or name.casefold() in known:
            reason = "its name is not valid on every system"
        else:
            try:
                data = read_bytes(path, MAX_LICENSE_BYTES, folder)
            except InputError as error:
                reason = str(error)[:300]
            else:
                if b"\0" in data:
                    reason = "it is no text"
        if reason is None:
            found[name] = data
            known.add(name.casefold())
        else:
            _log.warning("%s: this license file is not copied: %s", path, reason)
    return found


def write_license_files(files: Mapping[str, bytes], folder: Path) -> None:
    """Writes license files into `folder`, which is made if there are any."""
    if files:
        folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def base_model_name(source: str | None, adapters: Iterable[str | None]) -> str | None:
    """Returns `org/name` of the base model; None if it is not known.

    Args:
        source: `org/name@commit` of a base model from the Hugging Face hub, or None.
        adapters: The names that the adapters state. They count if `source` is None and all of them are the same.
    """
    if source is not None:
        name = source.partition("@")[0]
        return name if _HUB_ID.fullmatch(name) else None
    names = {name for name in adapters if name is not None}
    return names.pop() if len(names) == 1 else None


def license_fields(base: str | None, adapters: Iterable[str | None]) -> dict[str, str | list[str]]:
    """Returns the fields `license` and `license_name` of a model card for the Hugging Face hub.

    The license of the base model is that of the whole if all that state one state the same. The hub has `unknown` for
    no license stated, and `other` for what is not one of its own names.

    Args:
        base: The license that the base model states.
        adapters: Those that the adapters state.
    """
    known = {text.casefold() for text in (base, *adapters) if text is not None}
    if not known:
        return {"license": "unknown"}
    if base is None or len(known) > 1:
        return {"license": OTHER, "license_name": "base-model-and-adapters"}
    text = base.casefold()
    names = text.split(", ")
    if all(map(_HUB_LICENSE.fullmatch, names)):
        return {"license": names[0] if len(names) == 1 else names}
    named = text.removeprefix(f"{OTHER} (").removesuffix(")") if text.startswith(f"{OTHER} (") else text
    return {"license": OTHER, "license_name": re.sub(r"[^a-z0-9.]+", "-", named)[:_MAX_TEXT].strip("-.") or OTHER}


def _license(path: Path, fields: Mapping[str, Value]) -> str | None:
    value = fields.get("license")
    texts = [text for item in (value if isinstance(value, list) else [value or ""]) if (text := item.strip())]
    found = ", ".join(texts)
    if found.casefold() == OTHER and (name := _one(path, fields, "license_name")):
        found = f"{OTHER} ({name})"
    return _checked(path, "license", found)


def _one(path: Path, fields: Mapping[str, Value], name: str) -> str | None:
    """Returns the text of a field, also from a list of one text; None if there is none, or several."""
    value = fields.get(name, "")
    if isinstance(value, list):
        value = value[0] if len(value) == 1 else ""
    return _checked(path, name, value.strip())


def _checked(path: Path, name: str, text: str) -> str | None:
    if not text:
        return None
    if len(text) > _MAX_TEXT or not text.isprintable():
        _log.warning(
            "%s: field %r is not read: expected at most %d printable characters, found %s",
            path, name, _MAX_TEXT, shortened(text),
        )  # fmt: skip
        return None
    return text
