"""One trace of the model, with markers where adapters and heads will stand."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapter_export.basemodel import BaseModel, quiet
from adapter_export.errors import InputError
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
    """model: the traced graph, markers and all. sample: what it was traced with."""

    model: ir.Model
    sample: Sample


def trace(
    base: BaseModel,
    sites: Mapping[Site, Sequence[Operator]],
    head: Sequence[str] = (),
    opset: int = MIN_OPSET,
) -> Trace:
    """Trace the base model with `transformers.exporters.OnnxExporter`; batch and sequence stay dynamic.

    sites, head: where markers go (see `export.markers`); none of either gives the bare model. Raises InputError when
    the model cannot be traced with dynamic axes.
    """
    from torch.export import Dim
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    sample = sample_for(base)
    dims = {name: Dim(name, min=1, max=limit) for name, limit in sample.limits.items()}
    shapes = {name: {axis: dims[dim] for axis, dim in axes.items()} for name, axes in sample.axes.items()}
    config = OnnxConfig(dynamic=True, dynamic_shapes=shapes, opset_version=opset)
    try:
        with markers(base.module, sites, head), _without_cache(base), _silence():
            exported = OnnxExporter().export(base.module, dict(sample.inputs), config)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"model {base.folder}: {base.info.architecture} cannot be traced: {reason[:500]}") from error
    return Trace(exported.program, sample)


@contextmanager
def _without_cache(base: BaseModel) -> Iterator[None]:
    """Decoders, classifiers made of them included, return their key-value cache unless their config says otherwise."""
    config = base.module.config.get_text_config()
    before = getattr(config, "use_cache", None)
    if before is not None:
        config.use_cache = False
    try:
        yield
    finally:
        if before is not None:
            config.use_cache = before


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
