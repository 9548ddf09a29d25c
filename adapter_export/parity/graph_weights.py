"""Gives a PyTorch model the quantized weights that the graph of another tool has, to compute T for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adapter_export.bundle.manifest import Manifest
from adapter_export.errors import InputError
from adapter_export.grafting.dialects import dialect_named
from adapter_export.grafting.modules import Modules
from adapter_export.grafting.packed import packed_in
from adapter_export.grafting.stored_weights import is_quantized, table_rows, weight_rows
from adapter_export.parity.recording.few_bits import round_operand
from adapter_export.reading.onnx_files import check_model, read_model

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

# The value of MatMulNBits' `accuracy_level` with which ONNX Runtime rounds what is multiplied to 8 bits.
_ROUNDS_OPERANDS = 4


def use_graph_weights(model: PreTrainedModel, bundle: Path, manifest: Manifest) -> None:
    """Replaces the weights of linear layers and of the table of tokens by those of the graph, in place.

    Layers whose weights the graph has quantized also round what is multiplied with them, as ONNX Runtime does.

    Args:
        model: The model, float32. Changed permanently.
        bundle: Folder of the bundle.
        manifest: Its manifest.

    Raises:
        InputError: The graph is broken, or quantized in a way that is not known.
    """
    for file in manifest.graphs:
        _use_weights_of(bundle / file, model, manifest)


def _use_weights_of(file: Path, model: PreTrainedModel, manifest: Manifest) -> None:
    import onnx_ir as ir

    assert manifest.graft is not None
    check_model(file)
    graph = ir.serde.deserialize_model(read_model(file)).graph
    ir.external_data.set_base_dir(graph, file.parent)
    modules = Modules(graph, dialect_named(manifest.graft.dialect), manifest.base.model_type)
    packed = packed_in(modules)
    for path, part in packed.items():
        sizes = list(part.sizes)
        begin = sum(part.sizes[name] for name in sizes[: sizes.index(path)])
        rows = weight_rows(part.linear, slice(begin, begin + part.sizes[path]))
        _use(model.base_model.get_submodule(path), rows, part.linear.node)
    for path, (layer, *_) in modules.linear.items():
        if is_quantized(layer):
            _use(model.base_model.get_submodule(path), weight_rows(layer, slice(None)), layer.node)
    for path, (layer, *_) in modules.outside.items():
        if is_quantized(layer):
            _use(model.get_submodule(path), weight_rows(layer, slice(None)), layer.node)
    for node in graph:
        if node.op_type == "GatherBlockQuantized":
            _set(model.get_input_embeddings(), table_rows(node))


def _use(module: Any, weight: np.ndarray, node: Any) -> None:
    _set(module, weight)
    level = node.attributes.get("accuracy_level")
    if level is not None and level.as_int() == _ROUNDS_OPERANDS:
        module.register_forward_pre_hook(round_operand)


def _set(module: nn.Module, weight: np.ndarray) -> None:
    """Sets the weight of a module alone: another module that shared it keeps the old one."""
    import torch
    from transformers.pytorch_utils import Conv1D

    old = module.weight
    assert isinstance(old, torch.Tensor)
    values = weight.T if isinstance(module, Conv1D) else weight
    if values.shape != tuple(old.shape):
        raise InputError(f"graph: expected a weight of shape {tuple(old.shape)}, found {values.shape}")
    module.weight = torch.nn.Parameter(
        torch.from_numpy(np.ascontiguousarray(values)).to(old.dtype), requires_grad=False
    )
