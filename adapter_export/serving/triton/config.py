"""The model configuration (config.pbtxt) of Triton for a bundle.

Source: model_config.proto of https://github.com/triton-inference-server/common, and what the backend requires of a
graph (`ModelInstanceState` in https://github.com/triton-inference-server/onnxruntime_backend).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from adapter_export.bundle.graphs import NUM_LABELS
from adapter_export.bundle.manifest import Manifest, TensorInfo
from adapter_export.serving.inference.tensors import datatype_of

BACKEND = "onnxruntime"
# The parameters with the number of each adapter, and with the class names of each number, both as JSON.
IDS_PARAMETER, LABELS_PARAMETER = "adapter_ids", "labels"
# Triton's own name for a file of class names, one a line.
LABELS_FILE = "labels.txt"
# The number of the base model in a bank.
_BASE_ID = 0


@dataclass(frozen=True)
class ModelConfig:
    """What Triton is told about a graph.

    Attributes:
        name: Name of the model, and of its folder.
        max_batch: Largest number of rows in a run. With 1, Triton never combines requests.
        gpu: Whether the model runs on GPUs.
        inputs: The inputs of the graph by name.
        outputs: The outputs of the graph by name.
        adapter_ids: The number of each adapter, which the input `adapter_ids` takes; None if rows cannot choose.
        labels: The class names of each number; those of the whole model under 0 if rows cannot choose.
    """

    name: str
    max_batch: int
    gpu: bool
    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    adapter_ids: Mapping[str, int] | None
    labels: Mapping[int, Sequence[str]]

    @property
    def label_lines(self) -> str | None:
        """The content of LABELS_FILE; None if the rows have different classes, or names that are no lines."""
        names = self.labels.get(_BASE_ID)
        if self.adapter_ids is not None or not names or not all(name.strip() and name.isprintable() for name in names):
            return None
        return "".join(f"{name}\n" for name in names)

    def __str__(self) -> str:
        """Returns the text of config.pbtxt."""
        lines = [
            f"name: {quoted(self.name)}",
            f"backend: {quoted(BACKEND)}",
            f"max_batch_size: {self.max_batch}",
            *_tensors("input", [_tensor(name, info) for name, info in self.inputs.items()]),
            *_tensors("output", [_tensor(name, info, self._label_file(info)) for name, info in self.outputs.items()]),
            f"instance_group [ {{ count: 1 kind: {'KIND_GPU' if self.gpu else 'KIND_CPU'} }} ]",
        ]
        if self.max_batch > 1:
            lines.append("dynamic_batching { }")
        for key, value in self._parameters():
            lines.append(f"parameters {{ key: {quoted(key)} value {{ string_value: {quoted(value)} }} }}")
        return "\n".join(lines) + "\n"

    def _label_file(self, info: TensorInfo) -> str | None:
        is_classes = len(info.shape) == 2 and info.shape[1] in (NUM_LABELS, len(self.labels.get(_BASE_ID, ())))
        return LABELS_FILE if is_classes and self.label_lines is not None else None

    def _parameters(self) -> Iterator[tuple[str, str]]:
        if self.adapter_ids is None:
            return
        yield IDS_PARAMETER, json.dumps(dict(self.adapter_ids))
        if self.labels:
            yield LABELS_PARAMETER, json.dumps({str(number): list(names) for number, names in self.labels.items()})


def model_config(manifest: Manifest, name: str, max_batch: int, gpu: bool) -> ModelConfig:
    """Returns the configuration of a bundle that `repository.check_served` accepts. See `ModelConfig`."""
    rows_choose = manifest.mode.per_row
    ids = {info.name: info.slot for info in manifest.adapters if info.slot is not None} if rows_choose else None
    in_graph = manifest.in_graph
    of_base = manifest.labels if in_graph is None or in_graph.labels is None else in_graph.labels
    labels = {_BASE_ID: of_base, **{info.slot: info.labels for info in manifest.adapters if info.slot is not None}}
    return ModelConfig(
        name,
        max_batch,
        gpu,
        manifest.inputs,
        manifest.outputs,
        ids,
        {number: names for number, names in labels.items() if names is not None},
    )


def quoted(text: str) -> str:
    """Returns a text as protobuf's text format writes it, in ASCII."""
    escaped = (
        chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f"\\{byte:03o}" for byte in text.encode("utf-8")
    )
    return f'"{"".join(escaped)}"'


def _tensors(field: str, bodies: Sequence[str]) -> list[str]:
    return [f"{field} [", ",\n".join(bodies), "]"]


def _tensor(name: str, info: TensorInfo, label_file: str | None = None) -> str:
    """Returns one tensor. Its first axis, the batch, is not among the dims.

    Dims must not be empty. So a tensor [batch] is [batch, 1] for clients, and Triton removes the last axis.
    """
    dims = [dim if isinstance(dim, int) else -1 for dim in info.shape[1:]]
    parts = [
        f"name: {quoted(name)}",
        f"data_type: TYPE_{datatype_of(info.dtype)}",
        f"dims: [ {', '.join(map(str, dims or [1]))} ]",
    ]
    if not dims:
        parts.append("reshape { shape: [ ] }")
    if label_file is not None:
        parts.append(f"label_filename: {quoted(label_file)}")
    return "  {\n" + "".join(f"    {part}\n" for part in parts) + "  }"
