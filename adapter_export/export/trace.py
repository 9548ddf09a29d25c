"""One trace of the model, with markers where adapters and heads will stand."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapter_export.basemodel import BaseModel, quiet
from adapter_export.errors import InputError
from adapter_export.export.cached import cache_name, cached_sample, name_cache
from adapter_export.export.markers import markers
from adapter_export.export.samples import Sample, sample_for
from adapter_export.methods.contract import Operator
from adapter_export.sites import Site

if TYPE_CHECKING:
    import onnx_ir as ir

# The oldest opset with every operator the methods use (Gelu), and what the exporter emits by default.
MIN_OPSET = 20


@dataclass(frozen=True)
class Trace:
    """model: the traced graph, markers and all. axes: for each of its inputs the public name of each dynamic axis."""

    model: ir.Model
    axes: Mapping[str, Mapping[int, str]]


def trace(
    base: BaseModel,
    sites: Mapping[Site, Sequence[Operator]],
    head: Sequence[str] = (),
    opset: int = MIN_OPSET,
    *,
    cache: bool = False,
) -> Trace:
    """Trace the base model with `transformers.exporters.OnnxExporter`; batch and sequence stay dynamic.

    sites, head: where markers go (see `export.markers`); none of either gives the bare model. cache: the graph takes a
    key-value cache and gives the grown one (see `export.cached`). Raises InputError when the model cannot be traced
    with dynamic axes.
    """
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    sample = cached_sample(base) if cache else sample_for(base)
    config = OnnxConfig(
        dynamic=True,
        dynamic_shapes=_dynamic_shapes(sample),
        opset_version=opset,
        # Guards on sums of axes (past and new tokens) cannot be proven for every size; they hold at run time.
        prefer_deferred_runtime_asserts_over_guards=cache,
    )
    try:
        with markers(base.module, sites, head), _use_cache(base, cache), _silence():
            exported = OnnxExporter().export(base.module, dict(sample.inputs), config)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"model {base.folder}: {base.info.architecture} cannot be traced: {reason[:500]}") from error
    if cache:
        name_cache(exported.program)
    return Trace(exported.program, dict(_by_input(sample.axes)))


def _by_input(axes: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[int, str]]]:
    for name, value in axes.items():
        if isinstance(value, list):
            # A cache: keys and values of each layer in turn.
            for index, item in enumerate(value):
                yield cache_name(name, *divmod(index, 2)), item
        else:
            yield name, value


def _dynamic_shapes(sample: Sample) -> dict[str, Any]:
    """The sample's axes as `torch.export` takes them; an axis whose size follows from others is left to it."""
    from torch.export import Dim

    # A cache may be empty.
    least = {"past_sequence": 0, **sample.least}
    dims = {name: Dim(name, min=least.get(name, 1), max=limit) for name, limit in sample.limits.items()}

    def shape(axes: Any) -> Any:
        if isinstance(axes, list):
            return [shape(item) for item in axes]
        return {axis: dims.get(dim, Dim.AUTO) for axis, dim in axes.items()}

    return {name: shape(axes) for name, axes in sample.axes.items()}


@contextmanager
def _use_cache(base: BaseModel, cache: bool) -> Iterator[None]:
    """Decoders, classifiers made of them included, return their key-value cache unless their config says otherwise."""
    # T5 has a config for each of its stacks.
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
    """The exporters print progress and version advice; what goes wrong is raised."""
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
