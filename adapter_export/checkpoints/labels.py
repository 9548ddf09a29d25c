"""Class names: where they come from, and which of several are used."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from adapter_export import tasks
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.errors import InputError
from adapter_export.reading.files import read_text
from adapter_export.reading.links import folder_of

# Names that transformers gives to classes without names.
PLACEHOLDERS = ("LABEL_0", "LABEL_1")
# A list of class names is small.
_MAX_BYTES = 16 << 20
_PLACEHOLDER = re.compile(r"LABEL_\d+")


def has_own_head(config: Mapping[str, Any], task: str) -> bool:
    """Returns whether the head in a base model's folder may be one for `task`.

    A head for another task can have the same names: a classifier of tokens is not one of whole texts.

    Args:
        config: Config of the base model.
        task: The task.
    """
    saved = tasks.of_config(config)
    return saved == task or (saved not in tasks.UNSERVED and not tasks.is_labelled(saved))


def class_names(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Returns the names in a model's `id2label`, in the order of its classes; None if it has no names of its own."""
    id2label = config.get("id2label")
    if not isinstance(id2label, Mapping) or not id2label:
        return None
    names = {str(number): name for number, name in id2label.items()}
    ordered = [names.get(str(number)) for number in range(len(names))]
    if not all(isinstance(name, str) for name in ordered) or all(_PLACEHOLDER.fullmatch(str(n)) for n in ordered):
        return None
    return tuple(str(name) for name in ordered)


def named(what: str, adapter: Adapter, base: Sequence[str] | None, given: Sequence[str] | None) -> Adapter:
    """Returns the adapter with class names: those that the user gave, or its checkpoint's, or the base model's if their
    number fits.

    Args:
        what: What the adapter is, for error messages.
        adapter: The adapter.
        base: Class names of the base model, or None.
        given: Class names given by the user, or None.

    Raises:
        InputError: The number of names is not that of the head's classes, a name is there twice, or names were given to
            an adapter without a head.
    """
    count, recorded = adapter.num_labels, adapter.labels
    if given is not None:
        if count is None:
            raise InputError(f"{what}: --labels: expected none, as the adapter brings no task head, found {len(given)}")
        _check(f"{what}: --labels", given, count)
        changed = recorded is not None and recorded != tuple(given)
        note = f"--labels wins over the names that the checkpoint has ({', '.join(recorded or ())})"
        notes = (*adapter.notes, note) if changed else adapter.notes
        return replace(adapter, labels=tuple(given), labels_given=True, notes=notes)
    if recorded is not None and count is not None:
        _check(what, recorded, count)
    if recorded is None and count is not None and base is not None:
        if count == len(base):
            return replace(adapter, labels=tuple(base))
        note = (
            f"the checkpoint has no class names, and the base model's are {len(base)}, not {count}: the classes are "
            "called LABEL_0, ...; name them with --labels"
        )
        return replace(adapter, notes=(*adapter.notes, note))
    return adapter


def parse_labels(texts: Iterable[str], adapters: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Returns class names by adapter.

    Args:
        texts: Values of the option: `NAME=A,B,...`, or `NAME=@FILE` for a file with one name a line. With one adapter,
            `NAME=` may be left out.
        adapters: Names of the adapters.

    Raises:
        InputError: A text is neither.
    """
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator and len(adapters) == 1:
            name, value = adapters[0], text
        elif not separator:
            raise InputError(f"--labels {text!r}: expected NAME=A,B,... or NAME=@FILE")
        if name not in adapters:
            raise InputError(f"--labels {name!r}: expected one of the adapters ({', '.join(adapters)})")
        if name in found:
            raise InputError(f"--labels {name}: given twice")
        found[name] = tuple(_lines(Path(value[1:])) if value.startswith("@") else _split(value))
    return found


def check_given(labels: Mapping[str, Sequence[str]], adapters: Iterable[str]) -> None:
    """Raises InputError if names were given to an adapter that is not there."""
    known = list(adapters)
    for name, names in labels.items():
        if name not in known:
            raise InputError(f"labels {name!r}: expected one of the adapters ({', '.join(known)})")
        if isinstance(names, str) or not all(isinstance(one, str) for one in names):
            raise InputError(f"labels {name!r}: expected a list of names, found {names!r:.100}")


def _check(what: str, names: Sequence[str], count: int) -> None:
    if len(names) != count:
        raise InputError(f"{what}: {len(names)} label names for a head of {count}")
    if empty := [number for number, name in enumerate(names) if not name.strip()]:
        raise InputError(f"{what}: expected a name for every class, found none for class {empty[0]}")
    if twice := [name for number, name in enumerate(names) if name in names[:number]]:
        raise InputError(f"{what}: expected different names, found {twice[0]!r} twice")


def _split(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _lines(path: Path) -> list[str]:
    try:
        text = read_text(path, _MAX_BYTES, folder_of(path), "utf-8-sig")
    except InputError as error:
        raise InputError(f"--labels: a file with a name a line: {error}") from None
    return [line.strip() for line in text.rstrip().split("\n")]
