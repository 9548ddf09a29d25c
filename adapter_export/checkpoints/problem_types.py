"""What the numbers of a task head mean, by transformers' names.

single_label_classification  one of several classes: softmax
multi_label_classification   any number of classes: sigmoid
regression                   values, as they are
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from adapter_export.errors import InputError

if TYPE_CHECKING:
    from adapter_export.checkpoints.adapter import Adapter

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
PROBLEM_TYPES = (SINGLE, MULTI, REGRESSION)


def meaning(problem_type: str | None, count: int) -> str:
    """Returns the problem type of a head with `count` outputs, for the problem type that is stated, or None.

    Without a stated type, transformers takes a single output as a value, and several as classes. A single output is a
    value also where single_label_classification is stated, as there is no choice of one class among several.
    """
    if problem_type is None or (problem_type == SINGLE and count == 1):
        return REGRESSION if count == 1 else SINGLE
    return problem_type


def stated(config: Mapping[str, Any]) -> str | None:
    """Returns the problem type that a model's config states. Raises InputError for an unknown one."""
    found = config.get("problem_type")
    if found is not None and found not in PROBLEM_TYPES:
        raise InputError(
            f"config.json: field 'problem_type': expected one of {', '.join(PROBLEM_TYPES)}, found {found!r:.60}"
        )
    return found


def with_problem_type(adapter: Adapter, config: Mapping[str, Any]) -> Adapter:
    """Returns the adapter with the problem type of its base model's config, if its checkpoint states none.

    PEFT stores no problem type and trains as the config says. The head must have as many outputs as the config has
    classes.
    """
    if adapter.problem_type is not None or adapter.num_labels is None or adapter.num_labels != classes(config):
        return adapter
    return replace(adapter, problem_type=stated(config))


def classes(config: Mapping[str, Any]) -> int:
    """Returns how many classes a model's config has. Without such fields they are two, as in transformers."""
    names, number = config.get("id2label"), config.get("num_labels")
    if isinstance(number, int):
        return number
    return len(names) if isinstance(names, Mapping) else 2
