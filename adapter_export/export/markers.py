"""Private nodes that stand for adapters and heads in a trace, and are lowered afterwards.

A marker contains no tensors. The exporter, its optimizer and its fusions see an opaque node, so they cannot fold, merge
or rename anything. The attributes of a marker say what it stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from adapter_export.methods.contract import Operator
from adapter_export.modelinfo import ModelInfo
from adapter_export.models.injection import attach, remove_all
from adapter_export.naming import DOMAIN, DOMAIN_VERSION
from adapter_export.sites import Features, Site

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from adapter_export.models.injection import SiteFunction

SITE, HEAD, LAYER, KEPT, ATTENTION = "Site", "Head", "Layer", "Kept", "Attention"


@contextmanager
def markers(
    model: PreTrainedModel, info: ModelInfo, sites: Mapping[Site, Sequence[Operator]], head: Sequence[str]
) -> Iterator[None]:
    """Inside the block, every operator of a site and every head layer is traced as one marker node.

    Several operators of one site follow each other. At most one of them is active at a time; the others are the
    identity.

    Args:
        model: The model to be traced.
        info: Its description.
        sites: The sites and their operators.
        head: Paths of the head layers.
    """
    handles = [
        handle
        for site, stack in sites.items()
        for operator in stack
        for handle in attach(model, site, operator.reads, _site_marker(site, operator, info.features(site)))
    ]
    layers = [cast("nn.Linear", model.get_submodule(name)) for name in head]
    try:
        for name, layer in zip(head, layers, strict=True):
            layer.forward = _head_marker(name, layer)  # type: ignore[assignment]
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)
        remove_all(handles)


@contextmanager
def kept_logits_marked(model: PreTrainedModel, marked: bool) -> Iterator[None]:
    """Inside the block, the hidden states that become logits go through a marker, see `passes.keep_logits`.

    Args:
        model: The model to be traced. One without a layer for logits gets no marker.
        marked: Whether there is a marker at all.
    """

    def before(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        x = args[0]
        return (emit(KEPT, (x,), {}, x, x.shape), *args[1:])

    layer = model.get_output_embeddings() if marked else None
    # Before the hooks of adapters at this layer, which read its input.
    handles = [] if layer is None else [layer.register_forward_pre_hook(before, prepend=True)]
    try:
        yield
    finally:
        remove_all(handles)


def marker_attributes(site: Site, operator: Operator, features: Features) -> dict[str, str | int]:
    """Returns the attributes of the marker of an operator at a site with these features."""
    return {
        "module": site.module,
        "port": site.port.value,
        "op_type": operator.op_type,
        "inputs": features.inputs,
        "outputs": features.outputs,
    }


def _site_marker(site: Site, operator: Operator, features: Features) -> SiteFunction:
    def marker(values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        y = values["y"]
        # The values that the operator reads, and last the value that it replaces.
        inputs = (*(values[name] for name in operator.reads), y)
        return emit(SITE, inputs, marker_attributes(site, operator, features), y, y.shape)

    return marker


def _head_marker(name: str, layer: nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
    def marker(x: torch.Tensor) -> torch.Tensor:
        return emit(HEAD, (x,), {"module": name}, x, (*x.shape[:-1], layer.out_features))

    return marker


def emit(
    op: str,
    inputs: Sequence[torch.Tensor],
    attributes: Mapping[str, str | int | float],
    like: torch.Tensor,
    shape: Sequence[int],
) -> torch.Tensor:
    import torch

    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::{op}", inputs, dict(attributes), dtype=like.dtype, shape=shape, version=DOMAIN_VERSION
    )
