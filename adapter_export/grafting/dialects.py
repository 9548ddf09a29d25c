"""How the tools that make graphs name the modules of a model. A new dialect is one record."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from adapter_export.errors import InputError

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

# What PyTorch's exporter keeps in the metadata of a node: the paths of the modules around it, the outermost first, and
# the node's own name. `['', 'encoder', 'encoder.layer.0', 'linear']`
_SCOPES = "pkg.torch.onnx.name_scopes"
_SCOPE = re.compile(r"'([^']*)'")

_AXES = {
    "batch_size": "batch",
    "sequence_length": "sequence",
    "past_sequence_length": "past_sequence",
    "total_sequence_length": "past_sequence + sequence",
    "past_sequence_length + sequence_length": "past_sequence + sequence",
    "encoder_sequence_length": "encoder_sequence",
    "decoder_sequence_length": "sequence",
    "past_decoder_sequence_length": "past_sequence",
}


@dataclass(frozen=True)
class Dialect:
    """How the nodes of one tool's graphs tell their modules.

    Attributes:
        name: Its name for users.
        producer: What the graph's producer name begins with.
        scopes: The key of the nodes' metadata that lists the modules around a node. Empty if a node is named by its
            module instead: `/model/layers.0/mlp/down_proj/MatMul`.
        renames: Parts of a module path as this tool names them, and as transformers does.
        packed: Modules that are parts of one linear layer, by the name of that layer, in the order of their outputs.
        elsewhere: Parts of paths of modules that are not where their path says.
        axes: The names of dynamic axes, and those of this package.
    """

    name: str
    producer: str
    scopes: str = ""
    renames: Mapping[str, str] = field(default_factory=dict)
    packed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    elsewhere: tuple[str, ...] = ()
    axes: Mapping[str, str] = field(default_factory=lambda: _AXES)

    def path_of(self, node: ir.Node) -> str:
        """Returns the path of the module that a node belongs to; empty if the node tells none."""
        if self.scopes:
            scopes = _SCOPE.findall(node.metadata_props.get(self.scopes, ""))
            return scopes[-2] if len(scopes) > 1 else ""
        parts = (node.name or "").strip("/").split("/")[:-1]
        if not set(parts).isdisjoint(self.elsewhere):
            return ""
        return ".".join(self.renames.get(part, part) for part in parts)

    def name_node(self, node: ir.Node, path: str) -> None:
        """Lets a node tell a module, in a dialect whose nodes have metadata."""
        node.metadata_props[self.scopes] = str(["", path, node.name])


DIALECTS = (
    Dialect(
        "ONNX Runtime GenAI's model builder",
        producer="onnxruntime-genai",
        renames={"attn": "self_attn"},
        packed={"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")},
        elsewhere=("final_norm_layernorm",),
    ),
    Dialect("PyTorch's exporter (torch.onnx.export, dynamo=True)", producer="pytorch", scopes=_SCOPES),
    Dialect("TorchScript (optimum)", producer="pytorch"),
    Dialect("adapter-export", producer="adapter-export", scopes=_SCOPES),
)


def dialect_named(name: str) -> Dialect:
    """Returns the dialect of this name. Raises InputError if there is none."""
    for one in DIALECTS:
        if one.name == name:
            return one
    raise InputError(f"graft: dialect {name[:100]!r} is not known")


def dialect_of(model: onnx.ModelProto) -> Dialect | None:
    """Returns the first dialect that a graph is of; None if there is no record of it."""
    keys = {item.key for node in model.graph.node for item in node.metadata_props}
    return next(
        (
            one
            for one in DIALECTS
            if model.producer_name.startswith(one.producer) and (not one.scopes or one.scopes in keys)
        ),
        None,
    )
