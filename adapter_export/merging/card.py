"""Writes README.md and the license files of a merged model's folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from adapter_export.bundle.card import LICENSE_NOTE, NOT_STATED
from adapter_export.bundle.manifest import ADAPTER_LICENSES, BASE_LICENSES, LICENSES
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.licenses import (
    base_model_name,
    license_fields,
    license_files,
    stated,
    write_license_files,
)
from adapter_export.errors import InputError
from adapter_export.hub import source_of
from adapter_export.naming import check_adapter_name
from adapter_export.outputs.markdown import escaped, front_matter_lines, table
from adapter_export.outputs.ownership import CARD, SIDECAR
from adapter_export.reading.json_files import optional_json

# In the receipt: whether README.md in the folder is the card that a merge wrote.
OWN_CARD = "card"
_BASE_CARD = "README.base{}.md"


@dataclass(frozen=True)
class Origin:
    """Where the parts of a merged model come from, and their licenses.

    Attributes:
        base_license: The license that the base model states; None if it states none. For a model that is itself a
            merge, the base model is that of its first merge.
        base_source: `org/name@commit` of the base model on the Hugging Face hub; None for a folder.
        base_name: `org/name` of the base model; None if it is not known.
        files: License files by their folder in the merged model's folder.
        renamed: New names of files of the model's folder that are copied under another name.
    """

    base_license: str | None
    base_source: str | None
    base_name: str | None
    files: Mapping[str, Mapping[str, bytes]]
    renamed: Mapping[str, str]

    @property
    def base_card(self) -> str | None:
        """Name of the base model's own README.md; None without one."""
        return next(iter(self.renamed.values()), None)


def has_own_card(folder: Path) -> bool:
    """Returns whether README.md in a model's folder is the card of an earlier merge."""
    return optional_json(folder / SIDECAR).get(OWN_CARD) is True


def origin_of(
    folder: Path,
    kept: Sequence[str],
    receipt: Sequence[Mapping[str, Any]],
    adapters: Iterable[tuple[Path, Adapter]],
) -> Origin:
    """Reads where the parts of a merge come from.

    Args:
        folder: Folder of the model.
        kept: Files of it that are copied, see `folder_files.companions`.
        receipt: Entries of the receipt of earlier merges.
        adapters: The adapters, with their folders.
    """
    readme, adapters = stated(folder), list(adapters)
    first = receipt[0] if receipt else {"base_license": readme.license, "base_source": source_of(folder)}
    source = _text(first.get("base_source"))
    names = [one.base_model for _, one in adapters]
    if has_own_card(folder):
        # The card of the earlier merge names the base model of that merge.
        names.append(readme.base_model)
    taken = {"/".join(name.split("/")[:3]).casefold() for name in kept}
    files: dict[str, Mapping[str, bytes]] = {}
    if not any(name.startswith(f"{BASE_LICENSES}/") for name in kept):
        files[BASE_LICENSES] = license_files(folder)
    for path, _ in adapters:
        place = _free(f"{ADAPTER_LICENSES}/{_plain(path.resolve().name)}", taken)
        files[place] = license_files(path)
        taken.add(place.casefold())
    return Origin(
        _text(first.get("base_license")), source, base_model_name(source, names), files, _renamed(folder, kept)
    )


def write_origin(folder: Path, origin: Origin, entries: Sequence[Mapping[str, Any]], architecture: str) -> None:
    """Writes README.md and the license files.

    Args:
        folder: Folder of the merged model.
        origin: Where its parts come from.
        entries: All entries of its receipt.
        architecture: Class of the merged model.
    """
    for place, files in origin.files.items():
        write_license_files(files, folder / place)
    has_files = (folder / LICENSES).is_dir()
    (folder / CARD).write_bytes(card(origin, entries, architecture, has_files).encode())


def card(origin: Origin, entries: Sequence[Mapping[str, Any]], architecture: str, has_files: bool) -> str:
    """Returns the model card of a merged model. The entries are from a receipt, which may be a stranger's."""
    licenses = license_fields(origin.base_license, [_text(one.get("adapter_license")) for one in entries])
    methods = sorted({text for one in entries if (text := _text(one.get("method")))})
    base = _text(entries[0].get("base_sha256"))
    lines = [
        *front_matter_lines(
            {
                **licenses,
                **({"base_model": origin.base_name} if origin.base_name else {}),
                "library_name": "transformers",
                "tags": ["adapter-export", "merged-adapter", *methods],
            }
        ),
        "",
        f"# {escaped(architecture)} with merged adapters",
        "",
        "This folder is a copy of a base model with adapters folded into its weights. `from_pretrained` of "
        "transformers loads it as any model.",
        "",
        *table(
            ("", ""),
            [
                ("class", escaped(architecture)),
                ("source of the base model", escaped(origin.base_source or "a folder")),
                ("sha256 of its weights", escaped(base or "not known")),
            ],
        ),
        "",
        "## Merged adapters",
        "",
        *table(
            ("name", "method", "task head", "license", "source", "sha256", "dtype of the changed weights", "merged by"),
            [_row(one) for one in entries],
        ),
        "",
        "The sha256 is that of the adapter's tensor file. Weights keep their dtype: a changed weight is the product of "
        "the weight and the vectors of the adapters in float64, rounded once by each merge. All other weights, except "
        f"those of a task head, are those of the base model, bit for bit. `{SIDECAR}` lists the changed ones.",
        "",
        "## Licenses",
        "",
        f"License of the base model: {escaped(origin.base_license or NOT_STATED)}. {LICENSE_NOTE}",
        *(
            ["", f"The license files that came with them are in the folder `{LICENSES}`, unchanged."]
            if has_files
            else []
        ),
        *(
            ["", "## The base model", "", f"Its own model card is `{origin.base_card}`, unchanged."]
            if origin.base_card
            else []
        ),
        "",
        "## Versions",
        "",
        f"Made by adapter-export {version('adapter-export')}. `adapter-export inspect .` shows what was merged.",
    ]
    return "\n".join(lines) + "\n"


def _row(entry: Mapping[str, Any]) -> list[str]:
    return [
        escaped(_text(entry.get("name")) or "not known"),
        escaped(_text(entry.get("method")) or "not known"),
        escaped(_texts(entry.get("head")) or "none"),
        escaped(_text(entry.get("adapter_license")) or NOT_STATED),
        escaped(_text(entry.get("adapter_source")) or "a folder"),
        escaped(_text(entry.get("adapter_sha256")) or "not known"),
        escaped(_texts(entry.get("dtype")) or "not known"),
        escaped(f"adapter-export {_text(entry.get('project_version')) or 'of unknown version'}"),
    ]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _texts(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else ""


def _renamed(folder: Path, kept: Sequence[str]) -> dict[str, str]:
    """Returns the new name of the base model's README.md, whatever the case of its letters, as the card has its name.

    In the folder of an earlier merge that file already has its new name.
    """
    known = {name.casefold() for name in kept}
    for name in kept:
        if name.casefold() == CARD.casefold():
            number = 1
            while (new := _BASE_CARD.format("" if number == 1 else f".{number}")).casefold() in known:
                number += 1
            return {name: new}
    earlier = _BASE_CARD.format("")
    return {earlier: earlier} if has_own_card(folder) and earlier in kept else {}


def _plain(name: str) -> str:
    """Returns a name that is valid on every system."""
    try:
        return check_adapter_name(name)
    except InputError:
        return "adapter"


def _free(place: str, taken: Iterable[str]) -> str:
    number, new = 1, place
    while new.casefold() in taken:
        number += 1
        new = f"{place}-{number}"
    return new
