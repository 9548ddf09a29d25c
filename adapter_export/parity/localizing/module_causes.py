"""Explanations of a departure at a module of the base model: each is a value that PyTorch would compute there."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np

from adapter_export.parity.localizing.departure import ParityCause
from adapter_export.parity.localizing.evidence import Evidence

Explained = tuple[ParityCause, Any]

_WEIGHTS = "export again from the model folder; the weights in the graph are not those of the folder"
_GRAPH = "look at the node above: the graph computes the module in another way; export again, or report it"


def explanations(evidence: Evidence) -> Iterator[Explained]:
    """Yields explanations in the order in which they are tried, simple ones first."""
    module, given = evidence.submodule(), evidence.given()
    if given is None:
        return

    def right() -> Any:
        return module.forward(given)

    yield ParityCause("module skipped", "the value is the input of the module", _GRAPH), given
    bias, weight = getattr(module, "bias", None), getattr(module, "weight", None)
    if bias is not None and bias.ndim == 1:
        yield (
            ParityCause("bias", "without the bias of the module the values agree", _WEIGHTS),
            evidence.attempt(lambda: right() - bias),
        )
    if weight is not None and weight.ndim == 2 and weight.shape[0] == weight.shape[1]:
        yield (
            ParityCause("transposed", "with the weight of the module transposed the values agree", _WEIGHTS),
            _with(evidence, module, given, lambda value: value.T if value.ndim == 2 else value),
        )
    if weight is not None:
        yield (
            ParityCause("precision", "with weights rounded to float16 the values agree", _WEIGHTS),
            _with(evidence, module, given, lambda value: value.half().double()),
        )
    yield from _other_modules(evidence, module, given)
    yield from _other_inputs(evidence, module)
    factor = _factor(evidence)
    if abs(factor - 1) <= evidence.first.limit:
        return
    yield (
        ParityCause("factor", f"the value is {factor:.4g} times the right one", _WEIGHTS),
        factor * evidence.first.expected,
    )


def of_input(evidence: Evidence) -> Iterator[Explained]:
    """Yields: what a module reads is the output of another module than in PyTorch."""
    for path, calls in evidence.run.modules.items():
        for value in [value for call in calls for value in call if path]:
            said = f"the module reads the output of {path}, and something that PyTorch adds to it is missing"
            yield ParityCause("input missing", said, _GRAPH), value


def _with(evidence: Evidence, module: Any, given: Any, change: Any) -> Any:
    """Returns what a copy of the module with changed parameters computes."""

    def compute() -> Any:
        other = copy.deepcopy(module)
        for parameter in other.parameters():
            parameter.data = change(parameter.data)
        return other.forward(given)

    return evidence.attempt(compute) if next(module.children(), None) is None else None


def _forward(evidence: Evidence, module: Any, given: Any) -> Any:
    return evidence.attempt(lambda: module.forward(given))


def _shapes(module: Any) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(value.shape)) for name, value in module.named_parameters()]


def _other_modules(evidence: Evidence, module: Any, given: Any) -> Iterator[Explained]:
    """Yields: the weights of another module of the same kind."""
    shapes = _shapes(module)
    for path, other in evidence.model.named_modules() if shapes else ():
        if other is not module and type(other) is type(module) and _shapes(other) == shapes:
            yield (
                ParityCause("another module", f"with the weights of {path} the values agree", _WEIGHTS),
                _forward(evidence, other, given),
            )


def _other_inputs(evidence: Evidence, module: Any) -> Iterator[Explained]:
    """Yields: the module reads the output of another module than in PyTorch."""
    if next(module.children(), None) is not None:
        return
    shape = evidence.given().shape
    for path, calls in evidence.run.modules.items():
        for value in [value for call in calls for value in call if value.shape == shape and path]:
            said = f"the module reads the output of {path}, and something that PyTorch adds is missing"
            yield (
                ParityCause("input missing", said, _GRAPH),
                _forward(evidence, module, value),
            )


def _factor(evidence: Evidence) -> float:
    """Returns the factor of the right value that fits the graph best."""
    expected, actual = (np.float64(value).ravel() for value in (evidence.first.expected, evidence.first.actual))
    square = float(expected @ expected)
    return float(expected @ actual) / square if square else 0.0
