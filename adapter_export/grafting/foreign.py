"""Opens the graphs that another tool made of a model, with what their folder says about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_export import tasks
from adapter_export.bundle.graphs import DECODER, ENCODER, MODEL, GraphRole, is_cache
from adapter_export.bundle.precision import Quantization
from adapter_export.checkpoints.labels import class_names
from adapter_export.errors import InputError
from adapter_export.grafting.dialects import Dialect
from adapter_export.grafting.graph_files import graph_files
from adapter_export.grafting.join import HIDDEN, LOGITS, check_step, cross_states, free_of_tokens, join
from adapter_export.grafting.longest_text import longest_text_in
from adapter_export.grafting.read_graph import ReadGraph, read_graph
from adapter_export.modelinfo import ModelInfo
from adapter_export.reading.json_files import optional_json

if TYPE_CHECKING:
    import onnx_ir as ir

    from adapter_export.grafting.modules import Modules
    from adapter_export.grafting.packed import PackedLinear
    from adapter_export.merging.model_folder import ModelFolder

# Names of the hidden size in configs.
_HIDDEN_SIZES = ("hidden_size", "d_model", "dim", "n_embd")
CONFIG, GENAI_CONFIG = "config.json", "genai_config.json"


@dataclass(frozen=True)
class ForeignGraph:
    """A graph of another tool, which becomes one of a bundle.

    Attributes:
        model: The graph.
        modules: The modules of the graph.
        packed: Modules that are parts of one linear layer, by their paths.
        outputs: The outputs that it has in the bundle.
    """

    model: ir.Model
    modules: Modules
    packed: Mapping[str, PackedLinear]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class ForeignModel:
    """A model whose graphs another tool made.

    Attributes:
        files: The files of the graphs.
        data: The files with their weights, if they are not in the graphs.
        dialect: How the nodes of the graphs are named.
        graphs: The graphs by their roles in a bundle. The first one has all modules.
        info: Names and sizes of the model.
        task: The task that the graphs are for.
        quantize: How the weights are stored.
        config: config.json of the model; empty without one.
        longest_text: For how many tokens of a text the graphs compute what the model does; None without a limit.
    """

    files: tuple[Path, ...]
    data: tuple[Path, ...]
    dialect: Dialect
    graphs: Mapping[GraphRole, ForeignGraph]
    info: ModelInfo
    task: str
    quantize: Quantization
    config: Mapping[str, Any]
    longest_text: int | None

    @property
    def folder(self) -> Path:
        """The folder of the graphs."""
        return self.files[0].parent


def open_model(path: Path, folder: ModelFolder | None, sha256: str) -> ForeignModel:
    """Reads the graphs of a model and recognises their modules.

    Args:
        path: The file of the graph, or a folder.
        folder: The base model's folder. Its config counts if the graph's folder has none. Nodes that have lost their
            names are recognised by its weights.
        sha256: Digest of the base model's weights; empty if it is not known.

    Raises:
        InputError: There is no graph, its tool is not known, or nothing says which architecture it is.
    """
    from adapter_export.grafting.heads import head_layers
    from adapter_export.grafting.modules import Modules
    from adapter_export.grafting.name_by_weights import name_by_weights
    from adapter_export.grafting.packed import packed_in

    files = graph_files(path)
    read = [read_graph(file) for file in files]
    dialect, beside = read[0].dialect, files[0].parent
    config = optional_json(beside / CONFIG) or (dict(folder.config) if folder is not None else {})
    genai = _object(optional_json(beside / GENAI_CONFIG), "model")
    model_type = str(config.get("model_type") or genai.get("type") or "")
    if not model_type:
        raise InputError(f"{beside}: expected {CONFIG} or {GENAI_CONFIG} with the architecture, found neither")
    graphs = {}
    for role, (model, outputs) in _by_role(read).items():
        _size_cache(model.graph, _object(genai, "decoder").get("head_size"))
        if folder is not None:
            name_by_weights(model.graph, dialect, folder)
        modules = Modules(model.graph, dialect, model_type)
        graphs[role] = ForeignGraph(model, modules, packed_in(modules), outputs)
    whole, last = next(iter(graphs.values())), list(graphs.values())[-1]
    # The builder's folder does not name the class. All of its models are language models.
    stated = config.get("architectures")
    architecture = str(stated[0]) if isinstance(stated, list) and stated else f"{model_type.title()}ForCausalLM"
    task = "causal-lm" if genai else tasks.of_architecture(architecture)
    if HIDDEN in last.outputs:
        task = "features"
    if task is None:
        raise InputError(f"{files[0]}: the task of {architecture} is not known")
    hidden = _hidden_size(config or _object(genai, "decoder"))
    if task != "features":  # whose outputs differ between models: CLIP has no last_hidden_state
        _check_output(files[-1], last.outputs, tasks.get(task).output)
    info = _describe(whole, architecture, hidden, sha256)
    if tasks.is_labelled(task):
        info = replace(info, head=head_layers(whole.modules), labels=class_names(config))
    return ForeignModel(
        files,
        tuple(dict.fromkeys(data for one in read for data in one.data)),
        dialect,
        graphs,
        info,
        task,
        _quantization(node for graph in graphs.values() for node in graph.model.graph),
        config,
        longest_text_in(last.model.graph, config),
    )


def _by_role(read: Sequence[ReadGraph]) -> dict[GraphRole, tuple[ir.Model, tuple[str, ...]]]:
    """Returns the graphs of a bundle, with the outputs that they have there.

    An encoder and a decoder without a cache become one graph. With a decoder that has a cache, they become the
    encoder's graph of a bundle, which computes the keys and values of cross-attention, too.
    """
    if len(read) == 1:
        model = read[0].model
        return {MODEL: (model, tuple(str(value.name) for value in model.graph.outputs))}
    encoder, decoder, *with_past = read
    joined = join(encoder.model, decoder.model, encoder.dialect)
    if not with_past:
        return {MODEL: (joined, (LOGITS,))}
    free_of_tokens(joined)
    states, step = cross_states(joined), with_past[0]
    check_step(step.file, step.model.graph, states)
    outputs = tuple(str(value.name) for value in step.model.graph.outputs)
    return {ENCODER: (joined, (HIDDEN, *states)), DECODER: (step.model, outputs)}


def _check_output(file: Path, found: Sequence[str], name: str) -> None:
    if name not in found:
        raise InputError(f"{file}: expected an output {name!r}, found {', '.join(found)[:200]}; rename it in the graph")


def _quantization(nodes: Iterable[ir.Node]) -> Quantization:
    """Returns the fewest bits of a weight."""
    from adapter_export.grafting.modules import integer

    found = {integer(node, "bits") for node in nodes if node.op_type == "MatMulNBits"}
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


def _describe(graph: ForeignGraph, architecture: str, hidden: int, sha256: str) -> ModelInfo:
    modules = graph.modules
    sizes = dict.fromkeys(modules.all_paths(), hidden)
    inputs: dict[str, int] = {}
    for path, norms in modules.norms.items():
        sizes[path] = norms[0].features or hidden
    for path, layers in modules.linear.items():
        inputs[path], sizes[path] = layers[0].features
    for path, part in graph.packed.items():
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
