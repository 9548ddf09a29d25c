"""Finds the library's settings for the sites, operators and widths of a bottleneck adapter."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.adapterhub.config import DEFAULTS, KINDS, POST_ADD, Arithmetic
from adapter_export.checkpoints.adapterhub.places import AdapterPlace, arrange, layers, places
from adapter_export.errors import InputError
from adapter_export.methods.bottleneck import BottleneckOperator
from adapter_export.methods.contract import SiteAdapter
from adapter_export.modelinfo import ModelInfo
from adapter_export.sites import Site


def expressed(adapter: Adapter, info: ModelInfo) -> tuple[dict[str, Any], dict[Site, str]] | None:
    """Returns the library's config for exactly these sites, operators and widths, and each site's key in tensor names.

    Returns:
        The config and the keys; None if the library has no such settings.
    """
    every = list(places(info))
    if (found := _single(adapter.sites, every, info)) is not None:
        return found
    # The two configs of a union may differ in all settings but the place.
    halves: tuple[dict[Site, SiteAdapter], dict[Site, SiteAdapter]] = ({}, {})
    for arithmetic in _arithmetics(adapter.sites):
        for place, site in _sites(every, arithmetic).items():
            if _is(adapter.sites, site, place, arithmetic):
                halves[place.kind == "output_adapter"][site] = adapter.sites[site]
    if set(halves[0]) & set(halves[1]) or {*halves[0], *halves[1]} != set(adapter.sites):
        return None
    singles = [_single(half, every, info) for half in halves]
    complete = [half for half in singles if half is not None]
    if len(complete) < len(halves):
        return None
    config = {"architecture": "union", "configs": [{"architecture": None, **config} for config, _ in complete]}
    return config, {site: key for _, keys in complete for site, key in keys.items()}


def _single(
    site_adapters: Mapping[Site, SiteAdapter], every: Sequence[AdapterPlace], info: ModelInfo
) -> tuple[dict[str, Any], dict[Site, str]] | None:
    """Does the same as `expressed`, with one config that is no union."""
    for arithmetic in _arithmetics(site_adapters):
        sites = _sites(every, arithmetic)
        used = {place: site for place, site in sites.items() if _is(site_adapters, site, place, arithmetic)}
        kinds = {place.kind for place in used}
        full = {place.number for place in used}
        wanted = {place for place in sites if place.kind in kinds and place.number in full}
        expected = {place for place in every if place.kind in kinds and place.number in full}
        if not used or set(used.values()) != set(site_adapters) or not expected == wanted == set(used):
            continue
        if (factor := _reduction_factor(used, site_adapters)) is None:
            continue
        numbers = range(len(layers(info)))
        # Layers that have no such place need not be named in leave_out.
        able = {place.number for place in every if place.kind in kinds}
        config = {
            **_config(arithmetic),
            **{kind: kind in kinds for kind in KINDS},
            "leave_out": [number for number in numbers if number in able and number not in full],
            "reduction_factor": factor,
        }
        return config, {site: place.key for place, site in used.items()}
    return None


def _arithmetics(site_adapters: Mapping[Site, SiteAdapter]) -> Iterator[Arithmetic]:
    """Yields every arithmetic that could be that of the adapter, the usual ones first."""
    kinds = {
        (operator.activation, operator.norm_before, operator.norm_after)
        for site_adapter in site_adapters.values()
        if isinstance(operator := site_adapter.operator, BottleneckOperator)
    }
    residuals: tuple[bool | str, ...] = (True, False, POST_ADD)
    both = (False, True)
    for (activation, ln_before, ln_after), parallel, skipped, before in itertools.product(
        sorted(kinds), both, both, both
    ):
        for residual, inside in itertools.product(residuals, both):
            yield Arithmetic(activation, parallel, before, not skipped, residual, inside, ln_before, ln_after)


def _sites(every: Sequence[AdapterPlace], arithmetic: Arithmetic) -> dict[AdapterPlace, Site]:
    sites = {}
    for place in every:
        try:
            sites[place] = arrange(place, arithmetic)[0]
        except InputError:
            continue
    return sites


def _is(site_adapters: Mapping[Site, SiteAdapter], site: Site, place: AdapterPlace, arithmetic: Arithmetic) -> bool:
    return site in site_adapters and site_adapters[site].operator == arrange(place, arithmetic)[1]


def _config(arithmetic: Arithmetic) -> dict[str, Any]:
    return {
        **DEFAULTS,
        "adapter_residual_before_ln": arithmetic.adapter_residual_before_ln,
        "is_parallel": arithmetic.is_parallel,
        "ln_after": arithmetic.ln_after,
        "ln_before": arithmetic.ln_before,
        "non_linearity": "swish" if arithmetic.activation == "silu" else arithmetic.activation,
        "original_ln_after": arithmetic.original_ln_after,
        "original_ln_before": arithmetic.original_ln_before,
        "residual_before_ln": arithmetic.residual_before_ln,
    }


def config_beside(adapter: Adapter) -> dict[str, Any]:
    """Returns a config for sites that are none of the library's places, and that our own file lists.

    In this config, the layers are the sites in their order.
    """
    operators = {site_adapter.operator for site_adapter in adapter.sites.values()}
    operator = next(iter(operators))
    if len(operators) != 1 or not isinstance(operator, BottleneckOperator):
        raise InputError(
            f"method {adapter.method!r}: AdapterHub's format holds one kind of bottleneck only at places of one's own"
        )
    arithmetic = Arithmetic(
        operator.activation,
        is_parallel=operator.source == ("x",),
        ln_before=operator.norm_before,
        ln_after=operator.norm_after,
    )
    plain = replace(operator, source=("x",) if arithmetic.is_parallel else ("u",), within=(), plus=("y",))
    if operator != plain or any(site.output or site.norm for site in adapter.sites):
        raise InputError(
            f"method {adapter.method!r}: AdapterHub's format has no settings for {operator.op_name} at these places"
        )
    factors = {str(number): _factor(adapter.sites[site]) for number, site in enumerate(sorted(adapter.sites))}
    same = len(set(factors.values())) == 1
    return {
        **_config(arithmetic),
        **dict.fromkeys(KINDS, False),
        "reduction_factor": factors["0"] if same else {**factors, "default": factors["0"]},
    }


def _reduction_factor(used: Mapping[AdapterPlace, Site], site_adapters: Mapping[Site, SiteAdapter]) -> Any:
    """Returns one factor, or factors by layer for those that differ from the last; None if a layer has several
    widths.
    """
    factors: dict[int, float] = {}
    for place, site in used.items():
        factor = _factor(site_adapters[site])
        if factors.setdefault(place.number, factor) != factor:
            return None
    default = factors[max(factors)]
    others = {str(number): factor for number, factor in sorted(factors.items()) if factor != default}
    return {**others, "default": default} if others else default


def _factor(site_adapter: SiteAdapter) -> float:
    """Returns a factor r with int(d // r) = k, as the library computes the width."""
    features, width = site_adapter.tensors["down"].shape
    exact = features / width
    return float(exact if int(features // exact) == width else features / (width + 0.5))


def parts_of(site_adapter: SiteAdapter) -> dict[str, np.ndarray]:
    """Returns the tensors of a bottleneck by the library's names below its place."""
    tensors = site_adapter.tensors
    names = {}
    norm_before = "before_weight" in tensors
    if norm_before:
        for kind in ("weight", "bias"):
            # The library's files have the norm under two names.
            names[f"adapter_norm_before.{kind}"] = names[f"adapter_down.0.{kind}"] = tensors[f"before_{kind}"]
    down = f"adapter_down.{int(norm_before)}"
    names |= {f"{down}.weight": tensors["down"].T, f"{down}.bias": tensors["down_bias"]}
    names |= {"adapter_up.weight": tensors["up"].T, "adapter_up.bias": tensors["up_bias"]}
    if "after_weight" in tensors:
        names |= {f"adapter_norm_after.{kind}": tensors[f"after_{kind}"] for kind in ("weight", "bias")}
    return {name: np.ascontiguousarray(tensor) for name, tensor in names.items()}
