"""What the Open Inference Protocol says about the server and its models."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from adapter_export.bundle.graphs import NUM_LABELS, is_cache
from adapter_export.bundle.manifest import TensorInfo
from adapter_export.runtime.session import AdapterSession
from adapter_export.serving.inference.tensors import datatype_of
from adapter_export.serving.names import VERSION

SERVER = "adapter-export"
_EXTENSIONS = ["binary_tensor_data", "classification", "model_repository"]


def server_metadata(*, can_load: bool) -> dict[str, Any]:
    """Returns the name, the version and the extensions of the server.

    Args:
        can_load: Whether adapters can be loaded over HTTP.
    """
    extensions = _EXTENSIONS if can_load else _EXTENSIONS[:-1]
    return {"name": SERVER, "version": version("adapter-export"), "extensions": extensions}


def model_metadata(session: AdapterSession, name: str, adapter: str | None) -> dict[str, Any]:
    """Returns the inputs and outputs of a model, with the labels of its adapter.

    Args:
        session: The session.
        name: Name of the model.
        adapter: Its adapter; None for the base model.
    """
    manifest = session.manifest
    labels = session.labels(adapter)
    sizes = {} if labels is None else {NUM_LABELS: len(labels)}
    graph = manifest.graphs[manifest.model]
    return {
        "name": name,
        "versions": [VERSION],
        "platform": "onnxruntime_onnx",
        "inputs": [_tensor(key, info, {}) for key, info in graph.given.items() if not is_cache(key)],
        "outputs": [_tensor(key, info, sizes) for key, info in graph.outputs.items() if not is_cache(key)],
    }


def _tensor(name: str, info: TensorInfo, sizes: dict[str, int]) -> dict[str, Any]:
    shape = [dim if isinstance(dim, int) else sizes.get(dim, -1) for dim in info.shape]
    return {"name": name, "datatype": datatype_of(info.dtype), "shape": shape}
