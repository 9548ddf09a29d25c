"""Checking a saved graph: by the ONNX checker and, where it has operators that only ONNX Runtime knows, by that."""

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

# Above this size a constant is a weight, of which only the shape is checked; below, it may be a shape itself.
_SMALL_BYTES = 1 << 10


def contrib_operators(model: ir.Model) -> tuple[str, ...]:
    """Operators that neither the ONNX standard nor the model itself defines, sorted: `com.microsoft.MatMulNBits`;
    without a domain those that ONNX Runtime has put into the standard's own (`SimplifiedLayerNormalization`).
    """
    import onnx

    own = {(domain, name) for domain, name, _ in model.functions}
    used = {(node.domain, node.op_type) for node in model.graph.all_nodes()} - own
    return tuple(
        sorted(f"{domain}.{name}" if domain else name for domain, name in used if not onnx.defs.has(name, domain))
    )


def check_saved(path: Path) -> None:
    """Check structure, types and shapes of the graph at `path`.

    The ONNX checker infers shapes through standard operators alone: after the first one it does not know, it reports
    none of its findings. Such a graph is therefore also given to ONNX Runtime, without its weights. Raises
    onnx.checker.ValidationError, InferenceError, or InputError for what ONNX Runtime refuses.
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
        # By path: the checker then reads external data, and takes models above protobuf's 2 GB.
        onnx.checker.check_model(str(path), full_check=True)
        return
    _without_weights(graph)
    with _beside(graph, path) as copy:
        _run_time_check(copy)
    # One in the standard's own domain that the standard lacks would be an error; one in a foreign domain is not.
    for node in foreign:
        node.domain = node.domain or CONTRIB
    if all(imported.domain != CONTRIB for imported in graph.opset_import):
        graph.opset_import.append(onnx.helper.make_opsetid(CONTRIB, 1))
    with _beside(graph, path) as copy:
        onnx.checker.check_model(str(copy), full_check=True)


def _run_time_check(path: Path) -> None:
    """Let ONNX Runtime infer all types and shapes; that its CPU provider may lack a kernel for CUDA's is no error."""
    options = quiet_options()
    options.add_session_config_entry("session.strict_shape_type_inference", "1")
    try:
        open_model(path, Provider.CPU, options)
    except InputError as error:
        if "Could not find an implementation" not in str(error):
            raise


def _without_weights(model: onnx.ModelProto) -> None:
    """Take weights out, leaving inputs of their types and shapes in their place."""
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
def _beside(model: onnx.ModelProto, path: Path) -> Iterator[Path]:
    """The model as a file beside `path`, for as long as the block lasts."""
    import onnx

    copy = path.with_name(f".{path.name}.check")
    try:
        onnx.save(model, str(copy))
        yield copy
    finally:
        copy.unlink(missing_ok=True)
