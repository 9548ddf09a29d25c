"""Finds the likely cause of a departure, by trying explanations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from adapter_export.parity.criteria.judge import MAX_RETRY_CEILINGS
from adapter_export.parity.localizing import module_causes, site_causes
from adapter_export.parity.localizing.departure import ParityCause
from adapter_export.parity.localizing.evidence import Evidence
from adapter_export.parity.localizing.module_names import to_numpy
from adapter_export.parity.localizing.places import AFTER, INPUT
from adapter_export.parity.localizing.stored_tensors import difference, differing
from adapter_export.sites import Site

_NODE = "look at the node above; export again from the same model and adapter, or report it with this bundle"


def likely_cause(evidence: Evidence, pattern: ParityCause | None) -> ParityCause:
    """Returns the first explanation that predicts the values of the graph; otherwise what is known.

    Args:
        evidence: The departure.
        pattern: The cause that the verdicts of all cases show, if any.
    """
    shown = pattern or _not_a_number(evidence) or _acts_without_adapter(evidence) or _of_numbers(evidence)
    if shown is not None:
        return shown
    for cause, value in _explanations(evidence):
        if evidence.is_near(value):
            return cause
    return _unexplained(evidence)


def _explanations(evidence: Evidence) -> Iterator[tuple[ParityCause, Any]]:
    """Yields explanations, each with the value at the place that it predicts."""
    for site, own in evidence.site_adapters.items() if evidence.on else ():
        yield from site_causes.explanations(evidence, site, own)
    yield from _of_inputs(evidence)
    if evidence.first.place.part == INPUT:
        yield from module_causes.of_input(evidence)
    if evidence.module is not None and evidence.first.place.part != AFTER:
        yield from module_causes.explanations(evidence)


def _not_a_number(evidence: Evidence) -> ParityCause | None:
    if np.isfinite(evidence.first.actual).all() or not np.isfinite(evidence.first.expected).all():
        return None
    return ParityCause("not a number", "the node gives infinity or NaN where PyTorch gives numbers", _NODE)


def _acts_without_adapter(evidence: Evidence) -> ParityCause | None:
    """Returns a cause if the value after a site, at which no adapter should act, is another one than before."""
    if evidence.first.place.part != AFTER or (evidence.on and evidence.site_adapters):
        return None
    if name := site_causes.acting_adapter(evidence):
        return ParityCause(
            "another adapter",
            f"adapter {name!r} acts at this site, though the run has no adapter",
            "check the choice of the adapter: the input adapter_ids, or the tensors that the run is given",
        )
    return ParityCause(
        "not the identity",
        "no adapter acts at this site, but the graph changes the value",
        "the defaults of the adapter's tensors in the graph must be the identity: export the bundle again",
    )


def _of_numbers(evidence: Evidence) -> ParityCause | None:
    """Returns a cause that the numbers themselves show."""
    actual, expected = evidence.first.actual, evidence.first.expected
    if actual.size > 1 and not np.ptp(actual) and np.ptp(expected):
        return ParityCause("constant", f"every value here is {actual.flat[0]:.3g}, whatever the inputs are", _NODE)
    if len(evidence.steps) > 1 and expected.ndim > 1 and actual.shape == expected.shape:
        size = evidence.steps[0][1]
        begin = evidence.comparison.error(actual[:, :size], expected[:, :size])
        if size < expected.shape[1] and begin <= evidence.first.limit:
            return ParityCause(
                "cache",
                f"the first {size} tokens agree, and those that read the cache of earlier steps do not",
                "look at how the node above reads past_key_values, and at its order of tokens",
            )
    return None


def _of_inputs(evidence: Evidence) -> Iterator[tuple[ParityCause, np.ndarray]]:
    """Yields: the graph computes as if an input had other values."""
    for name, value in evidence.inputs.items():
        if name.endswith("mask"):
            words, other, kind = "ones", np.ones_like(value), "mask"
        elif name in ("token_type_ids", "position_ids"):
            words, other, kind = "zeros", np.zeros_like(value), "input ignored"
        else:
            continue
        if np.array_equal(other, value):
            continue
        for found in evidence.rerun({**evidence.inputs, name: other}):
            yield (
                ParityCause(
                    kind, f"with {words} for the input {name} the values agree: the graph does not read it", _NODE
                ),
                found,
            )


def _unexplained(evidence: Evidence) -> ParityCause:
    """Returns what is known of a departure that no explanation fits."""
    first, acting = evidence.first, evidence.site_adapters if evidence.on else {}
    if (stored := _stored(evidence, list(acting))) is not None:
        return stored
    if acting:
        return ParityCause(
            "other arithmetic",
            f"the tensors at {next(iter(acting)).name} are right, but the graph computes something else with them",
            _NODE,
        )
    if wrong := list(_other_weights(evidence)):
        return ParityCause(
            "other weights",
            f"in the graph, {wrong[0]}",
            "export again from the model folder; the weights in the graph are not those of the folder",
        )
    if first.error <= MAX_RETRY_CEILINGS * first.limit:
        return ParityCause(
            "precision",
            "the error is small: numbers at this place have less precision than the dtype of the bundle",
            "compare the dtypes of the weights at the node above with the dtype of the bundle",
        )
    return ParityCause(
        "other weights or arithmetic", "what enters this place agrees, and what leaves it does not", _NODE
    )


def _stored(evidence: Evidence, sites: Sequence[Site]) -> ParityCause | None:
    """Returns the cause if the bundle has other tensors of the adapter than the checkpoint, at these sites or for the
    layer of the task head at the place.
    """
    if evidence.adapter is None or not evidence.stored:
        return None
    starts = [site.name for site in sites] or ([] if evidence.module is None else [evidence.module])
    wrong = [line for start in starts for line in differing(evidence.adapter, evidence.stored, start)]
    if not wrong:
        return None
    more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return ParityCause(
        "other tensors",
        f"in the bundle, tensor {wrong[0]}{more}",
        "`adapter-export add` the adapter again from its checkpoint",
    )


def _other_weights(evidence: Evidence) -> Iterator[str]:
    """Yields the weights of the module at the place that are others in the graph, if no adapter is merged into them."""
    if evidence.module is None or evidence.site_adapters:
        return
    for name, parameter in evidence.submodule().named_parameters(recurse=False):
        full, right = f"{evidence.module}.{name}", to_numpy(parameter)
        found = evidence.constant(full)
        if found is not None and found.shape == right.shape and (wrong := difference(found, right)):
            yield f"{full} {wrong}"
