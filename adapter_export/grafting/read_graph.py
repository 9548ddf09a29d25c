"""Reads a graph of another tool, and removes what would be in the way of adapters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adapter_export.errors import InputError
from adapter_export.grafting.dialects import DIALECTS, Dialect, dialect_of
from adapter_export.naming import DOMAIN
from adapter_export.reading.onnx_files import external_files, read_model

if TYPE_CHECKING:
    import onnx_ir as ir

# What Olive adds to the names of nodes and values of 4 bits.
_QUANTIZED = "_Q4"


@dataclass(frozen=True)
class ReadGraph:
    """A graph as it was read.

    Attributes:
        file: Its file.
        data: The files with its weights, if they are not in the graph.
        dialect: How its nodes are named.
        model: The graph.
    """

    file: Path
    data: tuple[Path, ...]
    dialect: Dialect
    model: ir.Model


def read_graph(file: Path) -> ReadGraph:
    """Reads a graph. Its weights stay on the disk.

    Args:
        file: The file of the graph.

    Raises:
        InputError: The file is broken, has adapters already, or was made by a tool that is not known.
    """
    import onnx_ir as ir

    proto = read_model(file)
    if any(function.domain == DOMAIN for function in proto.functions):
        raise InputError(f"{file}: takes adapters already; expected a graph without")
    if (dialect := dialect_of(proto)) is None:
        known = ", ".join(one.name for one in DIALECTS)
        raise InputError(f"{file}: expected a graph of one of {known}, found producer {proto.producer_name[:100]!r}")
    data = external_files(file, proto)
    if missing := [external.location for external in data if external.path is None]:
        raise InputError(f"{file.parent / missing[0]}: no such file, though {file.name} has weights there")
    model = ir.serde.deserialize_model(proto)
    ir.external_data.set_base_dir(model.graph, file.parent)
    _remove_identities(model.graph)
    _keep_whole_texts(model.graph)
    _name_outputs(model.graph)
    return ReadGraph(file, tuple(external.path for external in data if external.path is not None), dialect, model)


def _remove_identities(graph: ir.Graph) -> None:
    """Removes the nodes Identity that tracers put between a weight and its second use, and all others inside.

    Those that make an output stay: two outputs may have the same value.
    """
    import onnx_ir as ir

    for node in list(graph):
        if node.op_type != "Identity" or node.domain or node.outputs[0].is_graph_output():
            continue
        if (value := node.inputs[0]) is not None:
            ir.convenience.replace_all_uses_with(node.outputs[0], value)
            graph.remove(node, safe=True)


def _keep_whole_texts(graph: ir.Graph) -> None:
    """Lets every cache hold whole texts.

    The builder lets a layer with a sliding window keep that window only. Such a layer does not take texts of different
    lengths in one batch. Without the attribute, it computes the same.
    """
    for node in graph:
        node.attributes.pop("sliding_window_cache", None)


def _name_outputs(graph: ir.Graph) -> None:
    """Gives outputs the names that they had before Olive replaced the nodes that make them by quantized ones."""
    names = {value.name for value in graph.outputs}
    for value in graph.outputs:
        name = str(value.name).removesuffix(_QUANTIZED)
        value.name = value.name if name in names else name
