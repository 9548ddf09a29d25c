"""Explanations of a departure at the site of an adapter: each is a value that PyTorch would compute there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from adapter_export.methods.contract import SiteAdapter
from adapter_export.naming import tensor_name
from adapter_export.parity.localizing.departure import ParityCause
from adapter_export.parity.localizing.evidence import Evidence, forward
from adapter_export.sites import Port, Site

Arrays = Mapping[str, np.ndarray]
# An explanation, and the value at the place that it predicts; None if it does not apply.
Explained = tuple[ParityCause, Any]

_AGAIN = "export the bundle again, or `adapter-export add` the adapter again"
_FILE = f"{_AGAIN}; the tensors in its file are not those of the checkpoint"
_GRAPH = "the tensors are right and the graph is not: export the bundle again with this version of adapter-export"
_MERGE = "merge or export again; if it stays, report it with the checkpoint"


def explanations(evidence: Evidence, site: Site, own: SiteAdapter) -> Iterator[Explained]:
    """Yields explanations in the order in which they are tried, simple ones first."""
    values, tensors, operator = evidence.values(site), own.exact, own.operator
    right = evidence.attempt(lambda: forward(operator, values, tensors))
    if right is None:
        return

    def result(out: Any) -> Any:
        return None if out is None else evidence.at_place(site, out)

    def computed(other: SiteAdapter, given: Mapping[str, Any] = values) -> Any:
        return result(evidence.attempt(lambda: forward(other.operator, given, other.exact)))

    yield (
        ParityCause("adapter absent", f"without the adapter at {site.name} the values agree", _AGAIN),
        result(values["y"]),
    )
    for name, adapter in evidence.adapters.items():
        if adapter is not evidence.adapter and (other := adapter.sites.get(site)) is not None:
            yield (
                ParityCause("another adapter", f"with the tensors of adapter {name!r} the values agree", _FILE),
                computed(other),
            )
    yield from _of_other_sites(evidence, site, own, computed)
    twice = evidence.attempt(lambda: forward(operator, _on_result(values, right), tensors))
    yield (
        ParityCause("applied twice", "with the adapter applied to its own result the values agree", _GRAPH),
        result(twice),
    )
    yield (
        ParityCause("value missing", "without the value that the adapter is added to the values agree", _GRAPH),
        result(right - values["y"]),
    )
    yield from _wrong_side(evidence, site, own)
    yield from _bias(evidence, site, own)
    if own.strength != 1:
        plain = replace(own, strength=1.0)
        yield (
            ParityCause("strength", f"without the factor {own.strength:g} of the checkpoint the values agree", _FILE),
            computed(plain),
        )
    for words, dtype in (("float16", np.float16), ("8 bits of mantissa (bfloat16)", None)):
        rounded = replace(own, tensors={name: _rounded(value, dtype) for name, value in own.tensors.items()})
        yield ParityCause("precision", f"with tensors rounded to {words} the values agree", _FILE), computed(rounded)
    for name, value in tensors.items():
        yield from _one_tensor(evidence, site, own, name, value, computed)
    yield (
        ParityCause("factor", _factor(evidence, values["y"], right, site), _FILE),
        _scaled(evidence, values["y"], right, site),
    )


def _on_result(values: Mapping[str, Any], right: Any) -> dict[str, Any]:
    """Returns the values for an adapter that is applied to its own result."""
    reads_y = values["u"] is values["y"] or (
        values["u"].shape == right.shape and bool((values["u"] == values["y"]).all())
    )
    return {**values, "y": right, **({"u": right} if reads_y else {})}


def _of_other_sites(evidence: Evidence, site: Site, own: SiteAdapter, computed: Any) -> Iterator[Explained]:
    """Yields: all tensors, or one of them, of another site of the same adapter."""
    assert evidence.adapter is not None
    for other_site, other in evidence.adapter.sites.items():
        shapes = {name: value.shape for name, value in other.tensors.items()}
        if other_site == site or shapes != {name: value.shape for name, value in own.tensors.items()}:
            continue
        said = f"with the tensors of site {other_site.name} the values agree"
        yield ParityCause("another site", said, _FILE), computed(replace(own, tensors=other.tensors))
        for name in own.tensors if len(own.tensors) > 1 else ():
            one = replace(own, tensors={**own.tensors, name: other.tensors[name]})
            yield (
                ParityCause("another site", f"with tensor {name!r} of site {other_site.name} the values agree", _FILE),
                computed(one),
            )


def _wrong_side(evidence: Evidence, site: Site, own: SiteAdapter) -> Iterator[Explained]:
    """Yields: the adapter at the input of its module in place of the output, and the reverse."""
    if evidence.module is None or site.port not in (Port.OUTPUT, Port.INPUT):
        return
    given, module = evidence.given(), evidence.submodule()

    def moved() -> Any:
        if site.port is Port.OUTPUT:
            return module.forward(forward(own.operator, {"u": given, "y": given}, own.exact))
        y = module.forward(evidence.values(site)["y"])
        return forward(own.operator, {"u": y, "y": y}, own.exact)

    sides = ("input", "output") if site.port is Port.OUTPUT else ("output", "input")
    said = f"with the adapter at the {sides[0]} of the module, not at its {sides[1]}, the values agree"
    yield ParityCause("wrong side", said, _MERGE), evidence.attempt(moved)


def _bias(evidence: Evidence, site: Site, own: SiteAdapter) -> Iterator[Explained]:
    """Yields: the adapter acts on the product of the layer alone, and not on its bias."""
    if evidence.module is None or site.port is not Port.OUTPUT:
        return
    bias = getattr(evidence.submodule(), "bias", None)
    if bias is None:
        return

    def without() -> Any:
        y = evidence.values(site)["y"] - bias
        return forward(own.operator, {**evidence.values(site), "u": y, "y": y}, own.exact) + bias

    yield (
        ParityCause("bias", "with the bias of the layer left out of the adapter the values agree", _MERGE),
        evidence.attempt(without),
    )


def _one_tensor(
    evidence: Evidence, site: Site, own: SiteAdapter, name: str, value: np.ndarray, computed: Any
) -> Iterator[Explained]:
    """Yields: one tensor has its identity value, is transposed, or reversed."""
    base = replace(own, strength=1.0, tensors=dict(own.exact))

    def changed(other: np.ndarray) -> Any:
        return computed(replace(base, tensors={**base.tensors, name: other}))

    full = tensor_name(site.name, own.operator.op_name, name)
    identity = np.full_like(value, own.operator.specs[name].identity)
    yield ParityCause("tensor absent", f"without tensor {full!r} the values agree", _FILE), changed(identity)
    yield (
        ParityCause("tensor absent", f"with zeros for tensor {full!r} the values agree", _FILE),
        changed(np.zeros_like(value)),
    )
    if value.ndim > 1 and value.shape[0] == value.shape[1]:
        yield ParityCause("transposed", f"with tensor {full!r} transposed the values agree", _FILE), changed(value.T)
    yield (
        ParityCause("order", f"with tensor {full!r} in the reverse order the values agree", _FILE),
        changed(value[::-1].copy()),
    )


def _scale(evidence: Evidence, y: Any, right: Any) -> float:
    """Returns the factor of the adapter's change that fits the graph best."""
    change = (right - y).detach().numpy().ravel()
    found = evidence.first.actual.astype(np.float64).ravel() - y.detach().numpy().ravel()
    return float(change @ found / max(float(change @ change), 1e-300))


def _factor(evidence: Evidence, y: Any, right: Any, site: Site) -> str:
    if site.port is not Port.OUTPUT and evidence.first.place.part != "after the adapter":
        return ""
    return f"the change that the adapter makes is {_scale(evidence, y, right):.4g} times the right one"


def _scaled(evidence: Evidence, y: Any, right: Any, site: Site) -> Any:
    if site.port is not Port.OUTPUT and evidence.first.place.part != "after the adapter":
        return None
    if evidence.first.actual.size != y.numel():
        return None
    return y + _scale(evidence, y, right) * (right - y)


def _rounded(value: np.ndarray, dtype: Any) -> np.ndarray:
    if dtype is not None:
        narrow: np.ndarray = value.astype(dtype).astype(np.float64)
        return narrow
    bits = value.astype(np.float32).view(np.uint32)
    kept: np.ndarray = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    wide: np.ndarray = kept.view(np.float32).astype(np.float64)
    return wide


def acting_adapter(evidence: Evidence) -> str | None:
    """Returns the name of the adapter that acts at the site of the place in the graph, though none should."""
    for name, adapter in evidence.adapters.items():
        for site, own in adapter.sites.items():
            if site.name == evidence.first.place.name and evidence.is_near(_computed(evidence, site, own)):
                return name
    return None


def _computed(evidence: Evidence, site: Site, own: SiteAdapter) -> Any:
    return evidence.attempt(lambda: forward(own.operator, evidence.values(site), own.exact))
