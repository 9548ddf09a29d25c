"""Finds the likely cause of a departure, by trying explanations."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from adapter_export.parity.criteria.judge import MAX_RETRY_CEILINGS
from adapter_export.parity.localizing import module_causes, site_causes
from adapter_export.parity.localizing.departure import Cause
from adapter_export.parity.localizing.evidence import Evidence
from adapter_export.parity.localizing.graph_values import AFTER
from adapter_export.parity.localizing.stored_tensors import differing

_NODE = "look at the node above; export again from the same model and adapter, or report it with this bundle"


def likely_cause(evidence: Evidence, pattern: Cause | None) -> Cause:
    """Returns the first explanation that predicts the values of the graph; otherwise what is known.

    Args:
        evidence: The departure.
        pattern: The cause that the verdicts of all cases show, if any.
    """
    if pattern is not None:
        return pattern
    acting = evidence.site_adapters if evidence.on else {}
    if evidence.first.place.part == AFTER and not acting:
        return Cause(
            "not the identity",
            "no adapter acts at this site, but the graph changes the value",
            "the defaults of the adapter's tensors in the graph must be the identity: export the bundle again",
        )
    for site, own in acting.items():
        for cause, value in site_causes.explanations(evidence, site, own):
            if evidence.is_near(value):
                return cause
    for cause, value in _of_inputs(evidence):
        if evidence.is_near(value):
            return cause
    if evidence.module is not None and evidence.first.place.part != AFTER:
        for cause, value in module_causes.explanations(evidence):
            if evidence.is_near(value):
                return cause
    return _unexplained(evidence)


def _of_inputs(evidence: Evidence) -> Iterator[tuple[Cause, np.ndarray]]:
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
            yield Cause(kind, f"with {words} for the input {name} the values agree: the graph does not read it", _NODE), found


def _unexplained(evidence: Evidence) -> Cause:
    """Returns what is known of a departure that no explanation fits."""
    first, acting = evidence.first, evidence.site_adapters if evidence.on else {}
    starts = [site.name for site in acting] or ([evidence.module] if evidence.module else [])
    if evidence.adapter is not None and evidence.stored:
        for start in starts:
            if wrong := list(differing(evidence.adapter, evidence.stored, start)):
                more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
                return Cause(
                    "other tensors",
                    f"in the bundle tensor {wrong[0]}{more}",
                    "`adapter-export add` the adapter again from its checkpoint",
                )
    if acting:
        return Cause(
            "other arithmetic",
            f"the tensors at {next(iter(acting)).name} are right, but the graph computes something else with them",
            _NODE,
        )
    if first.error <= MAX_RETRY_CEILINGS * first.limit:
        return Cause(
            "precision",
            "the error is small: numbers at this place have less precision than the dtype of the bundle",
            "compare the dtypes of the weights at the node above with the dtype of the bundle",
        )
    return Cause("other weights or arithmetic", "what enters this place agrees, and what leaves it does not", _NODE)
