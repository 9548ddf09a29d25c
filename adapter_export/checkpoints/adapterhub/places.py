"""Finds the sites and operators of AdapterHub's bottleneck adapters, by their places in tensor names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from adapter_export.architectures.layers import layers_of
from adapter_export.architectures.registry import facts
from adapter_export.architectures.renames import canonical
from adapter_export.checkpoints.adapterhub.config import POST_ADD, Arithmetic
from adapter_export.checkpoints.adapterhub.interface import Interface, built_in
from adapter_export.errors import InputError
from adapter_export.methods.bottleneck import BottleneckOperator
from adapter_export.modelinfo import ModelInfo
from adapter_export.sites import Port, Site


@dataclass(frozen=True)
class AdapterPlace:
    """One place where the library can put an adapter, beside a sublayer.

    Attributes:
        number: Number of the layer, in the library's count.
        kind: The setting that puts an adapter at the place (`config.KINDS`).
        key: The place in tensor names, in today's module paths.
        output: The module whose output is h.
        residual: The module whose input is x; empty if the library passes none on.
        norm: The norm that the library uses as N; empty if there is none.
        post_norm: Whether the model itself continues with N(h + x).
        total: The module whose output is h + x, if there is one.
        hooked: Whether the library leaves the residual and N to the model.
        swapped: Whether the library takes h for x and x for h.
    """

    number: int
    kind: str
    key: str
    output: str
    residual: str
    norm: str = ""
    post_norm: bool = False
    total: str = ""
    hooked: bool = False
    swapped: bool = False


def layers(info: ModelInfo, interface: Interface | None = None) -> list[str]:
    """Returns the paths of the layers in the library's numbering; empty for an unknown model.

    The layers of a decoder follow those of its encoder.
    """
    if interface is not None:
        return interface.layers(info)
    return [layer.path for layer in layers_of(info.model_type, info.modules)] if facts(info.model_type).stacks else []


def places(info: ModelInfo, interface: Interface | None = None) -> Iterator[AdapterPlace]:
    """Yields every place of every layer, in the library's order; none for an architecture without a record of its
    layers.

    Args:
        info: Description of the base model.
        interface: The checkpoint's description of the model; None takes the library's own.
    """
    record = facts(info.model_type)
    own = built_in(info.model_type)
    if interface is not None or own is not None:
        chosen = interface or own
        assert chosen is not None
        yield from _hooked(info, chosen, total=record.hub.whole_layer and chosen.hooks_like(own))
        return
    if not record.stacks:
        return
    for number, layer in enumerate(layers_of(info.model_type, info.modules)):
        hub, attention, feedforward = layer.stack.hub, layer.attention, layer.feedforward
        first = _place(
            number, "mh_adapter", layer.path, hub.attention, attention.output, attention.residual, attention.norm
        )
        yield replace(first, swapped=hub.swapped)
        if (cross := hub.cross) is not None and f"{layer.path}.{cross.output}" in info.modules:
            yield _place(number, "cross_adapter", layer.path, cross.key, cross.output, cross.residual, cross.norm)
        residual = "" if hub.no_x else feedforward.residual
        last = _place(number, "output_adapter", layer.path, hub.output, feedforward.output, residual, feedforward.norm)
        yield last if last.post_norm else replace(last, total=layer.path)


def _place(number: int, kind: str, layer: str, key: str, output: str, residual: str, norm: str) -> AdapterPlace:
    """Returns a place from paths below its layer. A norm, if there is one, is the next step of the model itself."""
    return AdapterPlace(
        number,
        kind,
        key=f"{layer}.{key}",
        output=f"{layer}.{output}",
        residual=f"{layer}.{residual}" if residual else "",
        norm=f"{layer}.{norm}" if norm else "",
        post_norm=bool(norm),
    )


def _hooked(info: ModelInfo, interface: Interface, total: bool) -> Iterator[AdapterPlace]:
    every = interface.layers(info)

    def place(number: int, kind: str, output: str, residual: str | None, norm: str | None) -> AdapterPlace:
        def below(layer: str, name: str | None) -> str:
            return (name and interface.below(info, layer, name)) or ""

        key = "output_adapters" if kind == "output_adapter" else "attention_adapters"
        return AdapterPlace(
            number,
            kind,
            canonical(info.model_type, f"{every[number]}.{key}"),
            output,
            below(every[number], residual),
            # The library looks the norm up when the model runs, and by then always finds the norm of the last layer.
            norm=below(every[-1], norm),
            total=every[number] if total and kind == "output_adapter" else "",
            hooked=True,
        )

    for number, layer in enumerate(every):
        cross = interface.below(info, layer, interface.layer_cross_attn)
        attention = interface.below(info, layer, interface.layer_self_attn, interface.attn_o_proj)
        if cross is not None:
            # The library puts this adapter at the place of the one after self-attention, which then has none.
            yield place(number, "cross_adapter", cross, interface.layer_pre_cross_attn, None)
        elif attention is not None:
            yield place(number, "mh_adapter", attention, interface.layer_pre_self_attn, interface.layer_ln_1)
        if (output := interface.below(info, layer, interface.layer_output_proj)) is not None:
            yield place(number, "output_adapter", output, interface.layer_pre_ffn, interface.layer_ln_2)


def arrange(place: AdapterPlace, how: Arithmetic) -> tuple[Site, BottleneckOperator]:
    """Returns a site and an operator that compute what the library computes at a place.

    Args:
        place: The place.
        how: The arithmetic.

    Raises:
        InputError: The library cannot compute this there, or the model does not give access to a value. The error names
            the field.
    """
    if place.hooked and not how.original_ln_after:
        raise InputError("field 'original_ln_after': false: the library does not take this for models it hooks into")
    source, residual = _terms(place, how)
    inside = how.ln_after and how.adapter_residual_before_ln and not how.is_parallel
    standard = BottleneckOperator(how.activation, norm_before=how.ln_before, norm_after=how.ln_after)
    if how.original_ln_after and residual == "h" and not inside:
        if source == "n" and place.post_norm:
            return Site(place.norm, Port.NORM), standard
        if source == "z" and place.total:
            return Site(place.total, Port.OUTPUT), standard
    if not place.residual and ({source, residual} & {"x", "z", "n"} or not how.original_ln_after):
        name = "is_parallel" if how.is_parallel else "original_ln_before"
        raise InputError(f"field {name!r}: the residual of {place.key!r} is the input of no module, and cannot be read")
    # From here on y is the value that the adapter replaces: h, or N(h + x) where the model's own norm is skipped.
    if how.original_ln_after or not place.post_norm:
        module, values = place.output, {"h": ("y",), "x": ("x",), "z": ("y", "x"), "n": ("n",)}
    else:
        module, values = place.norm, {"h": ("h",), "x": ("x",), "z": ("h", "x"), "n": ("y",)}
    if place.swapped:
        values |= {"h": values["x"], "x": values["h"]}
    plus = () if inside else values[residual]
    if module == place.output:
        # The library adds its x or nothing, and the model adds x to the result.
        plus = _less_x((*plus, *values["x"]) if how.original_ln_after else plus)
    operator = replace(
        standard,
        source=("u",) if values[source] == ("y",) else values[source],
        within=values[residual] if inside else (),
        plus=plus,
    )
    reads = operator.reads
    return (
        Site(
            module,
            Port.OUTPUT,
            residual=place.residual if {"x", "n"} & set(reads) else "",
            output=place.output if "h" in reads else "",
            norm=place.norm if "n" in reads else "",
        ),
        operator,
    )


def _less_x(terms: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the terms of a sum without x."""
    if "x" not in terms:
        return (*terms, "-x")
    first = terms.index("x")
    return terms[:first] + terms[first + 1 :]


def _terms(place: AdapterPlace, how: Arithmetic) -> tuple[str, str]:
    """Returns the adapter's input and residual, each one of h, x, z = h + x, or n = N(h + x)."""
    if how.is_parallel:
        return "x", "h"
    no_sum = not place.residual and not place.total
    source = "h" if not how.original_ln_before else "n" if place.norm else "h" if no_sum else "z"
    if how.residual_before_ln == POST_ADD:
        if source != "n":
            raise InputError(
                f"field 'residual_before_ln': {POST_ADD!r}: the library takes this only with original_ln_before, and "
                f"where the model has a norm after the sublayer; {place.key!r} has not both"
            )
        return source, "z"
    return source, "h" if how.residual_before_ln is True else source
