"""Describes single files: an .onnx graph, without its external data, and an .onnx_adapter file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from adapter_export.bundle.adapter_file import MAX_ADAPTER_BYTES, parse_adapter_file
from adapter_export.errors import InputError
from adapter_export.inspection.descriptions import (
    AdapterFileDescription,
    ExternalFile,
    NamedTensor,
    OnnxDescription,
    OperatorCount,
)
from adapter_export.inspection.tensors import Tensor, grouped, total
from adapter_export.reading.files import read_bytes, size_of
from adapter_export.reading.hashes import sha256
from adapter_export.reading.onnx_files import external_files, read_model

if TYPE_CHECKING:
    import onnx


def describe_adapter_file(path: Path) -> AdapterFileDescription:
    """Describes an .onnx_adapter file. Raises InputError for a broken one."""
    content = parse_adapter_file(path, data := read_bytes(path, MAX_ADAPTER_BYTES))
    tensors = [Tensor(name, place.dtype.name, place.shape) for name, place in content.places.items()]
    return AdapterFileDescription(
        path=path,
        kind="adapter file",
        bytes=len(data),
        sha256=sha256(path),
        adapter_version=content.adapter_version,
        base_fingerprint=f"{content.model_version & 0xFFFFFFFF:#010x}",
        parameters=total(tensors),
        tensors=grouped(tensors),
    )


def describe_onnx(path: Path) -> OnnxDescription:
    """Describes an .onnx file. Raises InputError for a broken one."""
    model = read_model(path)
    external = external_files(path, model)
    if not model.ir_version or not model.graph.node:
        raise InputError(f"{path}: not an ONNX model: it holds no graph")
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    operators: dict[tuple[str, str], int] = {}
    for node in graph.node:
        operators[node.domain, node.op_type] = operators.get((node.domain, node.op_type), 0) + 1
    overridable = [value for value in graph.input if value.name in weights]
    return OnnxDescription(
        path=path,
        kind="ONNX graph",
        bytes=size_of(path),
        sha256=sha256(path),
        ir_version=model.ir_version,
        opsets={item.domain or "ai.onnx": item.version for item in model.opset_import},
        producer=model.producer_name,
        nodes=len(graph.node),
        parameters=sum(math.prod(tensor.dims) for tensor in graph.initializer),
        inputs=tuple(_value(value) for value in graph.input if value.name not in weights),
        outputs=tuple(_value(value) for value in graph.output),
        operators=tuple(
            OperatorCount(domain or "ai.onnx", name, count)
            for (domain, name), count in sorted(operators.items(), key=lambda item: -item[1])
        ),
        functions=tuple(f"{function.domain}::{function.name}" for function in model.functions),
        external_data=tuple(
            ExternalFile(item.location, item.tensors, size_of(item.path) if item.path else None) for item in external
        ),
        overridable_initializers=grouped(_tensor(value) for value in overridable),
    )


def _value(value: onnx.ValueInfoProto) -> NamedTensor:
    tensor = _tensor(value)
    return NamedTensor(tensor.name, tensor.dtype, tensor.shape)


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    import onnx

    kind = value.type.tensor_type
    dims = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in kind.shape.dim)
    known = kind.elem_type in onnx.helper.get_all_tensor_dtypes()
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name if known else f"type {kind.elem_type}"
    return Tensor(value.name, dtype, dims)
