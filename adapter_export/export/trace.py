"""Traces a model once, with markers in place of adapters and heads."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from adapter_export.bundle.graphs import is_past
from adapter_export.bundle.precision import Fusion
from adapter_export.errors import InputError
from adapter_export.export.attention import CannotFuse, attention_marked
from adapter_export.export.markers import kept_logits_marked, markers
from adapter_export.export.overflow import overflow_clamped
from adapter_export.export.passes import run
from adapter_export.export.repeated.shorten import ends_marked, shortened
from adapter_export.export.repeated.stacks import NotUniform, Stack, find_stacks, left_out
from adapter_export.export.rotary import each_row_alone
from adapter_export.export.samples import Sample
from adapter_export.export.stage import StageOf
from adapter_export.export.stages import scoring
from adapter_export.export.target import Target
from adapter_export.methods.contract import Operator
from adapter_export.models.base_model import BaseModel
from adapter_export.models.quiet import quiet
from adapter_export.sites import Site

if TYPE_CHECKING:
    import onnx_ir as ir

# The oldest opset with all operators that the methods use (Gelu) and that the exporter uses by default.
MIN_OPSET = 20
FP32 = Target()
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trace:
    """A traced model.

    Attributes:
        model: The traced graph with markers.
        axes: Public names of the dynamic axes, {input: {axis index: axis name}}.
    """

    model: ir.Model
    axes: Mapping[str, Mapping[int, str]]


def trace(
    base: BaseModel,
    sites: Mapping[Site, Sequence[Operator]],
    head: Sequence[str] = (),
    opset: int = MIN_OPSET,
    *,
    stage: StageOf = scoring,
    target: Target = FP32,
) -> Trace:
    """Traces the base model with `transformers.exporters.OnnxExporter`. Axes such as batch and sequence stay dynamic.

    Args:
        base: The base model, loaded at the target's dtype.
        sites: Sites that get markers, with their operators (see `export.markers`).
        head: Paths of head layers that get markers. Without sites and head layers, the trace has no markers.
        opset: Version of the ONNX standard.
        stage: Which part of the model is traced, and whether with a cache (see `export.stages`).
        target: What the graph is made for.

    Raises:
        InputError: The model cannot be traced with dynamic axes, or transformers has no fusions and they are asked for.
    """
    if target.fuse.used:
        _fusions(target)
    stacks, attention = find_stacks(base.module, sites), target.fuse is Fusion.CPU
    while stacks or attention:
        try:
            return _trace(base, sites, head, opset, stage, target, stacks, attention)
        except CannotFuse as error:
            _log.warning("model %s: attention is not fused with the cache: %s", base.folder, error)
            attention = False
        except (InputError, NotUniform) as error:
            _log.debug("model %s: all layers are traced: %s", base.folder, error)
            if not stacks:
                raise
            stacks = ()
    return _trace(base, sites, head, opset, stage, target, (), attention=False)


def _trace(
    base: BaseModel,
    sites: Mapping[Site, Sequence[Operator]],
    head: Sequence[str],
    opset: int,
    stage: StageOf,
    target: Target,
    stacks: Sequence[Stack],
    attention: bool,
) -> Trace:
    """Traces a model, with some layers of the stacks only; the graph has all of them.

    With `attention`, the attention of a decoder is fused with its cache.
    """
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    from adapter_export.export.passes.correct_shapes import CorrectShapes
    from adapter_export.export.passes.keep_logits import KeepLogits
    from adapter_export.export.passes.name_cache import NameCache
    from adapter_export.export.passes.unroll_layers import UnrollLayers
    from adapter_export.export.passes.widen_boundary import WidenBoundary

    traced_sites = {
        site: stack for site, stack in sites.items() if not any(left_out(site.module, own) for own in stacks)
    }
    with shortened(base.module, stacks):
        traced = stage(base)
        sample = traced.sample
        config = OnnxConfig(
            dynamic=True,
            dynamic_shapes=_dynamic_shapes(sample),
            opset_version=opset,
            # Conditions on sums of axes (past and new tokens) cannot be proven for every size. At run time they are
            # true.
            prefer_deferred_runtime_asserts_over_guards="past_sequence" in sample.limits,
        )
        try:
            with (
                markers(base.module, base.info, traced_sites, head),
                kept_logits_marked(base.module, traced.cache),
                ends_marked(stacks),
                attention_marked(attention and traced.cache),
                each_row_alone(base.module),
                overflow_clamped(),
                _use_cache(base, traced.cache),
                _silence(),
            ):
                exported = OnnxExporter().export(traced.module, dict(sample.inputs), config)
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(
                f"model {base.folder}: {base.info.architecture} cannot be traced: {reason[:500]}"
            ) from error
        root = next(path for path, module in traced.module.named_modules() if module is base.module)
    # transformers 5.20, the last for Python 3.10, returns the program of PyTorch.
    model = exported.program if hasattr(exported, "program") else exported.model
    run(model, NameCache(), UnrollLayers(stacks, root))
    _fuse_and_quantize(model, target)
    run(model, CorrectShapes(), WidenBoundary(), KeepLogits())
    return Trace(_own(model), _public_axes(model, sample))


def _own(model: ir.Model) -> ir.Model:
    """Returns a copy of the model, and removes the weights of the original.

    The rules of the optimizer (onnxscript 0.7) keep the last graph that they processed. Its weights would stay in
    memory until the process ends.
    """
    copy = model.clone()
    for graph in model.graphs():
        for value in graph.initializers.values():
            value.const_value = None
    return copy


def _fuse_and_quantize(model: ir.Model, target: Target) -> None:
    """Replaces groups of nodes by fused operators, and weights by quantized weights, as the target asks."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    from adapter_export.export.passes.collapse_reshapes import CollapseReshapes
    from adapter_export.export.passes.fuse_attention import FuseAttention
    from adapter_export.export.passes.quantize_weights import QuantizeWeights

    if target.fuse.used:
        with _silence():
            _fusions(target)(model, target.fuse.value)
        run(model, FuseAttention(), CollapseReshapes(), RemoveUnusedNodesPass())
    if target.quantize.used:
        run(model, QuantizeWeights(target.quantize.bits))


def _fusions(target: Target) -> Callable[[ir.Model, str], object]:
    """Returns the fusions of transformers. Raises InputError if it has none."""
    try:
        from transformers.exporters.onnxruntime_fusions import fuse_for_onnxruntime
    except ModuleNotFoundError:
        raise InputError(
            f"--fuse {target.fuse}: transformers {version('transformers')} has no fusions for ONNX Runtime; expected "
            "5.23 or newer, which needs Python 3.11"
        ) from None
    fuse: Callable[[ir.Model, str], object] = fuse_for_onnxruntime
    return fuse


def _public_axes(model: ir.Model, sample: Sample) -> dict[str, Mapping[int, str]]:
    """Returns the sample's axes by the names of the graph's inputs.

    All tensors of a cache share the symbols of the first, so only that one is listed.
    """
    axes: dict[str, Mapping[int, str]] = {
        name: value for name, value in sample.axes.items() if not isinstance(value, list)
    }
    first = next((str(value.name) for value in model.graph.inputs if is_past(value.name or "")), None)
    if first is not None:
        axes[first] = sample.axes["past_key_values"][0]
    return axes


def _dynamic_shapes(sample: Sample) -> dict[str, Any]:
    """Returns the sample's axes in the form of `torch.export`. It derives the sizes of axes that have no limit."""
    from torch.export import Dim

    dims = {name: Dim(name, min=sample.least.get(name, 1), max=limit) for name, limit in sample.limits.items()}

    def shape(axes: Any) -> Any:
        if isinstance(axes, list):
            return [shape(item) for item in axes]
        return {axis: dims.get(dim, Dim.AUTO) for axis, dim in axes.items()}

    return {name: shape(axes) for name, axes in sample.axes.items()}


@contextmanager
def _use_cache(base: BaseModel, cache: bool) -> Iterator[None]:
    """Sets `use_cache` in the configs of the model inside the block.

    By default, decoders return their key-value cache, even those with the head of a classifier.
    """
    # T5 has separate configs for its encoder and its decoder.
    owners = (module for module in base.module.modules() if hasattr(module, "config"))
    configs = {id(config): config for owner in owners for config in (owner.config, owner.config.get_text_config())}
    before = {key: config.use_cache for key, config in configs.items() if hasattr(config, "use_cache")}
    for key in before:
        configs[key].use_cache = cache
    try:
        yield
    finally:
        for key, value in before.items():
            configs[key].use_cache = value


@contextmanager
def _silence() -> Iterator[None]:
    """Hides what the exporters print inside the block: progress and advice about versions. Errors are raised."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), quiet():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
