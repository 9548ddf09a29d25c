"""The classes of a text classifier: the labels of the data, in the order of the head that the base model has, if
any.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from adapter_export import tasks
from adapter_export.checkpoints.labels import class_names, has_own_head
from adapter_export.errors import InputError
from adapter_export.training.tables import DataTable, label_set

_log = logging.getLogger(__name__)
_TASK = "text-classification"
# A number with a fraction or an exponent, which is a value and not a class.
_VALUE = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+)([eE][+-]?\d+)?")
_WHOLE = re.compile(r"[+-]?\d+")
_SEPARATORS = "|;,"


@dataclass(frozen=True)
class Classes:
    """The classes of a text classifier.

    Attributes:
        names: Names of the classes, in the order of the head's outputs.
        own: Whether these are the classes of the base model's own head. The data may spell their names differently.
    """

    names: tuple[str, ...]
    own: bool = False

    def of(self, table: DataTable) -> DataTable:
        """Returns the table with its labels replaced by these names. Labels that are none of the classes stay."""
        if not self.own or table.labels is None:
            return table
        spelled = _matched(sorted(set(table.labels)), self.names) or {}
        return replace(table, labels=[spelled.get(label, label) for label in table.labels])


def classes_of(table: DataTable, config: Mapping[str, Any]) -> Classes:
    """Returns the classes of a training table.

    Where the base model has a head of its own for this task, and the labels of the data are its classes (by name, by
    name in other upper and lower case, or by number), training continues with that head, its order and its names.
    Otherwise the classes are the sorted labels, and a note says that the head starts with other classes.

    Args:
        table: The training data.
        config: Config of the base model.

    Raises:
        InputError: The labels are values and not classes, or there are fewer than two labels.
    """
    _refuse_values(table)
    found = label_set(table)
    _note_several(table, found)
    own = _own_classes(config)
    if own is None:
        return Classes(found)
    if found == tuple(map(str, range(len(own)))) and class_names(config) is None:
        # Neither the data nor the head has names.
        return Classes(found)
    if _matched(found, own) is not None:
        return Classes(own, own=True)
    _log.warning(
        "%s: the labels (%s) are not the classes of the base model's own task head (%s): its rows stand for other "
        "classes now, in sorted order",
        table.path,
        _some(found),
        _some(own),
    )
    return Classes(found)


def _own_classes(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Returns the classes of the base model's own head for texts, placeholder names included; None without such a
    head.
    """
    if tasks.of_config(config) != _TASK or not has_own_head(config, _TASK):
        return None
    id2label = config.get("id2label")
    if not isinstance(id2label, Mapping):
        return ("LABEL_0", "LABEL_1")
    names = {str(number): str(name) for number, name in id2label.items()}
    ordered = [names.get(str(number)) for number in range(len(names))]
    return None if None in ordered else tuple(str(name) for name in ordered)


def _matched(found: Sequence[str], own: Sequence[str]) -> dict[str, str] | None:
    """Returns the base model's class name for each label of the data; None if the labels are not its classes."""
    if set(found) <= set(own):
        return {label: label for label in found}
    folded = {name.casefold(): name for name in own}
    if len(folded) == len(own) and all(label.casefold() in folded for label in found):
        return {label: folded[label.casefold()] for label in found}
    if all(_WHOLE.fullmatch(label) and 0 <= int(label) < len(own) for label in found):
        return {label: own[int(label)] for label in found}
    return None


def _refuse_values(table: DataTable) -> None:
    for place, label in zip(table.places, table.labels or (), strict=True):
        if _VALUE.fullmatch(label) and not _WHOLE.fullmatch(label):
            raise InputError(
                f"{table.path}: {place}: label {label!r}: expected the name of a class or a whole number; training on "
                "values (regression) is not supported"
            )


def _note_several(table: DataTable, found: Sequence[str]) -> None:
    """Logs a note if labels look like lists of classes. Each label is one class, also one that reads like a list."""
    known = set(found)
    for label in found:
        for separator in _SEPARATORS:
            parts = [part.strip() for part in label.split(separator)]
            if len(parts) > 1 and set(parts) <= known:
                _log.warning(
                    "%s: label %r is one class of its own, beside %s: training on several labels at once is not "
                    "supported",
                    table.path,
                    label,
                    " and ".join(map(repr, parts)),
                )
                return


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
