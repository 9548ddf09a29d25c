"""Opens a graph that another tool made, with what its folder says about the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_export import tasks
from adapter_export.bundle.graphs import is_cache
from adapter_export.bundle.precision import Quantization
from adapter_export.checkpoints.labels import class_names
from adapter_export.errors import InputError
from adapter_export.grafting.dialects import DIALECTS, Dialect, dialect_of
from adapter_export.grafting.longest_text import longest_text_in
from adapter_export.modelinfo import ModelInfo
from adapter_export.naming import DOMAIN
from adapter_export.reading.folders import existing_folder
from adapter_export.reading.json_files import optional_json
from adapter_export.reading.onnx_files import external_files, read_model

if TYPE_CHECKING:
    import onnx_ir as ir

    from adapter_export.grafting.modules import Modules
    from adapter_export.grafting.packed import PackedLinear
    from adapter_export.merging.model_folder import ModelFolder

# Names of the hidden size in configs.
_HIDDEN_SIZES = ("hidden_size", "d_model", "dim", "n_embd")
# What Olive adds to the names of nodes and values of 4 bits.
_QUANTIZED = "_Q4"
CONFIG, GENAI_CONFIG = "config.json", "genai_config.json"


@dataclass(frozen=True)
class ForeignGraph:
    """A graph of another tool.

    Attributes:
        path: Its file.
        data: The files with its weights, if they are not in the graph.
        dialect: How its nodes are named.
        model: The graph.
        modules: The modules of the graph.
        packed: Modules that are parts of one linear layer, by their paths.
        info: Names and sizes of the model.
        task: The task that the graph is for.
        quantize: How the weights are stored.
        config: config.json of the model; empty without one.
        longest_text: For how many tokens of a text the graph computes what the model does; None without a limit.
    """

    path: Path
    data: tuple[Path, ...]
    dialect: Dialect
    model: ir.Model
    modules: Modules
    packed: Mapping[str, PackedLinear]
    info: ModelInfo
    task: str
    quantize: Quantization
    config: Mapping[str, Any]
    longest_text: int | None


def open_graph(path: Path, folder: ModelFolder | None, sha256: str) -> ForeignGraph:
    """Reads a graph and recognises its modules.

    Args:
        path: The file of the graph, or a folder with one.
        folder: The base model's folder. Its config counts if the graph's folder has none. Nodes that have lost their
            names are recognised by its weights.
        sha256: Digest of the base model's weights; empty if it is not known.

    Raises:
        InputError: There is no graph, its tool is not known, or nothing says which architecture it is.
    """
    import onnx_ir as ir

    from adapter_export.grafting.heads import head_layers
    from adapter_export.grafting.modules import Modules
    from adapter_export.grafting.name_by_weights import name_by_weights
    from adapter_export.grafting.packed import packed_in

    file = _file(path)
    proto = read_model(file)
    if any(function.domain == DOMAIN for function in proto.functions):
        raise InputError(f"{file}: takes adapters already; expected a graph without")
    if (dialect := dialect_of(proto)) is None:
        known = ", ".join(one.name for one in DIALECTS)
        raise InputError(f"{file}: expected a graph of one of {known}, found producer {proto.producer_name[:100]!r}")
    data = external_files(file, proto)
    if missing := [external.location for external in data if external.path is None]:
        raise InputError(f"{file.parent / missing[0]}: no such file, though {file.name} has weights there")
    config = optional_json(file.parent / CONFIG) or (dict(folder.config) if folder is not None else {})
    genai = _object(optional_json(file.parent / GENAI_CONFIG), "model")
    model_type = str(config.get("model_type") or genai.get("type") or "")
    if not model_type:
        raise InputError(f"{file.parent}: expected {CONFIG} or {GENAI_CONFIG} with the architecture, found neither")
    graph = ir.serde.deserialize_model(proto)
    ir.external_data.set_base_dir(graph.graph, file.parent)
    _remove_identities(graph.graph)
    _keep_whole_texts(graph.graph)
    _name_outputs(graph.graph)
    _size_cache(graph.graph, _object(genai, "decoder").get("head_size"))
    if folder is not None:
        name_by_weights(graph.graph, dialect, folder)
    modules = Modules(graph.graph, dialect, model_type)
    packed = packed_in(modules)
    # The builder's folder does not name the class. All of its models are language models.
    stated = config.get("architectures")
    architecture = str(stated[0]) if isinstance(stated, list) and stated else f"{model_type.title()}ForCausalLM"
    task = "causal-lm" if genai else tasks.of_architecture(architecture)
    if "last_hidden_state" in {value.name for value in graph.graph.outputs}:
        task = "features"
    if task is None:
        raise InputError(f"{file}: the task of {architecture} is not known")
    hidden = _hidden_size(config or _object(genai, "decoder"))
    if task != "features":  # whose outputs differ between models: CLIP has no last_hidden_state
        _check_output(file, graph.graph, tasks.get(task).output)
    info = _describe(modules, packed, architecture, hidden, sha256)
    if tasks.is_labelled(task):
        info = replace(info, head=head_layers(modules), labels=class_names(config))
    paths = tuple(external.path for external in data if external.path is not None)
    return ForeignGraph(
        file,
        paths,
        dialect,
        graph,
        modules,
        packed,
        info,
        task,
        _quantization(graph.graph),
        config,
        longest_text_in(graph.graph, config),
    )


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


def _check_output(file: Path, graph: ir.Graph, name: str) -> None:
    found = [str(value.name) for value in graph.outputs]
    if name not in found:
        raise InputError(f"{file}: expected an output {name!r}, found {', '.join(found)[:200]}; rename it in the graph")


def _file(path: Path) -> Path:
    if path.suffix == ".onnx":
        existing_folder(path.parent, "graph")
        return path
    folder = existing_folder(path, "graph")
    found = sorted(folder.glob("*.onnx"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise InputError(f"graph {folder}: expected one file *.onnx, found {names}; name the file itself")
    return found[0]


def _quantization(graph: ir.Graph) -> Quantization:
    """Returns the fewest bits of a weight."""
    from adapter_export.grafting.modules import integer

    found = {integer(node, "bits") for node in graph if node.op_type == "MatMulNBits"}
    known = {kind.bits: kind for kind in Quantization if kind.used}
    if found - set(known):
        raise InputError(f"graph: expected quantized weights of {sorted(known)} bits, found {sorted(found)}")
    return known[min(found)] if found else Quantization.NONE


def _object(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = config.get(name)
    return value if isinstance(value, dict) else {}


def _size_cache(graph: ir.Graph, head_size: Any) -> None:
    """Gives the last axis of a cache, which GenAI's graphs leave open, the size that the config says."""
    import onnx_ir as ir

    for value in (*graph.inputs, *graph.outputs):
        if is_cache(value.name or "") and value.shape is not None and isinstance(head_size, int):
            value.shape = ir.Shape([*value.shape[:-1], head_size])


def _hidden_size(config: Mapping[str, Any]) -> int:
    found = next((config[name] for name in _HIDDEN_SIZES if isinstance(config.get(name), int)), 0)
    return int(found)


def _describe(
    modules: Modules, packed: Mapping[str, PackedLinear], architecture: str, hidden: int, sha256: str
) -> ModelInfo:
    sizes = dict.fromkeys(modules.all_paths(), hidden)
    inputs: dict[str, int] = {}
    for path, norms in modules.norms.items():
        sizes[path] = norms[0].features or hidden
    for path, layers in modules.linear.items():
        inputs[path], sizes[path] = layers[0].features
    for path, part in packed.items():
        inputs[path], sizes[path] = part.linear.features[0], part.sizes[path]
    return ModelInfo(
        model_type=modules.model_type,
        architecture=architecture,
        prefix=modules.prefix,
        nested=modules.nested,
        hidden_size=hidden,
        modules=sizes,
        inputs=inputs,
        sha256=sha256,
    )
