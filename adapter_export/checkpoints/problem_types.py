"""What the numbers of a task head mean, by transformers' names for it.

single_label_classification  one of several classes: softmax
multi_label_classification   each class for itself: sigmoid
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
    """What a head of `count` outputs means that says `problem_type`: without a word, transformers takes a single output
    for a value, and several for classes. A single class is one of nothing: its number is a value as well."""
    if problem_type is None or (problem_type == SINGLE and count == 1):
        return REGRESSION if count == 1 else SINGLE
    return problem_type


def stated(config: Mapping[str, Any]) -> str | None:
    """The problem type that a model's config states; raises InputError for one that is not known."""
    found = config.get("problem_type")
    if found is not None and found not in PROBLEM_TYPES:
        raise InputError(
            f"config.json: field 'problem_type': expected one of {', '.join(PROBLEM_TYPES)}, found {found!r:.60}"
        )
    return found


def with_problem_type(adapter: Adapter, config: Mapping[str, Any]) -> Adapter:
    """The adapter, with the problem type of its base model's config where its checkpoint states none and its head has
    as many outputs as that config has classes: PEFT stores none, and trains what the config says."""
    if adapter.problem_type is not None or adapter.num_labels is None or adapter.num_labels != classes(config):
        return adapter
    return replace(adapter, problem_type=stated(config))


def classes(config: Mapping[str, Any]) -> int:
    """How many classes a model's config has: transformers' default of two without a word of them."""
    names, number = config.get("id2label"), config.get("num_labels")
    if isinstance(number, int):
        return number
    return len(names) if isinstance(names, Mapping) else 2
