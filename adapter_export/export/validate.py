"""Checks saved graphs with the ONNX checker, and with ONNX Runtime if a graph has operators that only it knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from adapter_export.errors import InputError
from adapter_export.naming import CONTRIB
from adapter_export.providers import Provider
from adapter_export.runtime.provider import open_model, quiet_options

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

# Constants above this size are weights, of which only the shape is checked. Smaller constants may be shapes themselves.
_SMALL_BYTES = 1 << 10


def contrib_operators(model: ir.Model) -> tuple[str, ...]:
    """Returns the operators that neither the ONNX standard nor the model itself defines, sorted.

    They are named like `com.microsoft.MatMulNBits`; without a domain if ONNX Runtime has added them to the domain of
    the standard (`SimplifiedLayerNormalization`).
    """
    import onnx

    own = {(domain, name) for domain, name, _ in model.functions}
    used = {(node.domain, node.op_type) for node in model.graph.all_nodes()} - own
    return tuple(
        sorted(f"{domain}.{name}" if domain else name for domain, name in used if not onnx.defs.has(name, domain))
    )


def check_saved(path: Path) -> None:
    """Checks structure, types and shapes of a graph.

    The ONNX checker infers shapes only through standard operators. After the first operator that it does not know, it
    reports no errors. Therefore ONNX Runtime loads such a graph as well, without its weights.

    Args:
        path: File of the graph.

    Raises:
        onnx.checker.ValidationError: The structure is wrong.
        onnx.shape_inference.InferenceError: Types or shapes are wrong.
        InputError: ONNX Runtime refuses the graph.
    """
    import onnx

    graph = onnx.load(str(path), load_external_data=False)
    own = {(function.domain, function.name) for function in graph.functions}
    foreign = [
        node
        for node in graph.graph.node
        if (node.domain, node.op_type) not in own and not onnx.defs.has(node.op_type, node.domain)
    ]
    if not foreign:
        # Given a path, the checker reads external data, and accepts models above the 2 GB of protobuf.
        onnx.checker.check_model(str(path), full_check=True)
        return
    _without_weights(graph)
    with _saved_next_to(graph, path) as copy:
        check_loads(copy, strict=True)
    # For the checker, an unknown operator is an error in the domain of the standard, but not in another domain.
    for node in foreign:
        node.domain = node.domain or CONTRIB
    if all(imported.domain != CONTRIB for imported in graph.opset_import):
        graph.opset_import.append(onnx.helper.make_opsetid(CONTRIB, 1))
    with _saved_next_to(graph, path) as copy:
        onnx.checker.check_model(str(copy), full_check=True)


def check_loads(path: Path, *, strict: bool) -> None:
    """Lets ONNX Runtime load a graph, and so infer all types and shapes.

    A kernel that the CPU provider lacks is no error, because the graph may be made for CUDA.

    Args:
        path: File of the graph.
        strict: Whether a shape that contradicts the graph's own statements is an error.

    Raises:
        InputError: ONNX Runtime refuses the graph.
    """
    options = quiet_options()
    if strict:
        options.add_session_config_entry("session.strict_shape_type_inference", "1")
    try:
        open_model(path, Provider.CPU, options)
    except InputError as error:
        if "Could not find an implementation" not in str(error):
            raise


def _without_weights(model: onnx.ModelProto) -> None:
    """Replaces the weights by graph inputs of the same types and shapes."""
    import onnx

    graph = model.graph
    inputs = {value.name for value in graph.input}
    external = onnx.TensorProto.EXTERNAL
    weights = [item for item in graph.initializer if item.data_location == external or item.ByteSize() > _SMALL_BYTES]
    for weight in weights:
        if weight.name not in inputs:
            graph.input.append(onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
        graph.initializer.remove(weight)


@contextmanager
def _saved_next_to(model: onnx.ModelProto, path: Path) -> Iterator[Path]:
    """Saves the model next to `path`, and removes that file after the block."""
    import onnx

    copy = path.with_name(f".{path.name}.check")
    try:
        onnx.save(model, str(copy))
        yield copy
    finally:
        copy.unlink(missing_ok=True)
