"""A base model as its folder describes it, by its config and the names of its tensors. Nothing is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapter_export import tasks
from adapter_export.architectures.layers import SHARED, USES_OF_SHARED, called_by_row
from adapter_export.architectures.registry import facts
from adapter_export.architectures.renames import canonical
from adapter_export.checkpoints.labels import class_names, has_own_head
from adapter_export.errors import InputError
from adapter_export.merging.task_classes import TaskClass, task_class
from adapter_export.merging.weights import WeightHeaders
from adapter_export.modelinfo import HEAD_ACTIVATION, EmbeddingTable, Kernel, ModelInfo
from adapter_export.sites import strip_prefix

# Last parts of the names of embeddings, which are matrices with a row for each token, position or bucket.
_TABLES = re.compile(r"embed_.*|.*_?embed|.*embeddings?|wte|wpe|shared|relative_attention_bias|embed_in")
# The router of a mixture of experts, which is a matrix, but no linear layer in transformers.
_ROUTERS = re.compile(r"(.*\.)?(block_sparse_moe|mlp)\.(gate|router)")
_HIDDEN_SIZES = ("hidden_size", "n_embd", "d_model", "dim")
_MATRIX_RANK = 2
_CONVOLUTION_RANKS = (3, 4, 5)
# Models whose convolutions standardise their kernels (BiT), or whose embeddings norm their rows, by `model_type`. A
# change that LoRA adds to what such a module computes is no change of its weight.
_REWORKED = frozenset({"bit", "inkling2_text", "inkling_text", "muse_glimmer_text", "muse_spark_text"})
# Tensors that task classes without a prefix add to the base model (T5's language model, CLIP's classifier).
_OUTSIDE = ("lm_head.", "classifier.", "score.")
# Part of the paths of the single experts of a mixture.
EXPERT = ".experts."


@dataclass(frozen=True)
class ModelFolder:
    """What must be known of a model folder to change its weights.

    Attributes:
        folder: The folder.
        config: Content of config.json.
        weights: Headers of the weight files.
        model_type: The config's `model_type`.
        prefix: The part of names on disk before the base model's paths, with its dot. Empty for a model that was saved
            from a base class.
        modules: Full module name on disk, by canonical path in the base model.
    """

    folder: Path
    config: Mapping[str, Any]
    weights: WeightHeaders
    model_type: str
    prefix: str
    modules: Mapping[str, str]

    @property
    def transposed(self) -> bool:
        """Whether linear layers are stored as (in, out)."""
        return facts(self.model_type).transposed

    @property
    def architecture(self) -> str:
        named = self.config.get("architectures")
        return str(named[0]) if isinstance(named, list) and named else ""

    @property
    def outside(self) -> list[str]:
        """Names of the tensors that belong to a task class and not to the base model."""
        return [name for name in self.weights.where if _outside(name, self.prefix)]

    @property
    def hidden_size(self) -> int:
        """The hidden size; 0 where the config names none, as for models whose stages have different sizes."""
        for config in (self.config, self.config.get("text_config")):
            for name in _HIDDEN_SIZES:
                if isinstance(config, Mapping) and type(config.get(name)) is int:
                    return int(config[name])
        return 0

    def task_class(self, task: str | None) -> TaskClass | None:
        """Returns the class with the head of `task`; None if it is not known."""
        return task_class(self.model_type, task, self.config) if task is not None and tasks.is_labelled(task) else None

    def info(self, task: str | None, experts: bool = True) -> ModelInfo:
        """Describes the model as `task` loads it, for placing adapters in it.

        Args:
            task: The task.
            experts: Whether to list the single experts of a mixture, which are modules on disk and in transformers 4,
                but not in transformers 5.
        """
        modules: dict[str, int] = {}
        inputs: dict[str, int] = {}
        convolutions: dict[str, int] = {}
        kernels: dict[str, Kernel] = {}
        embeddings: dict[str, EmbeddingTable] = {}
        nested = [value for value in self.config.values() if isinstance(value, Mapping)]
        reworked = any(str(config.get("model_type")) in _REWORKED for config in (self.config, *nested))
        for path, on_disk in self.modules.items():
            if not experts and EXPERT in path:
                continue
            for parent in _parents(path):
                modules.setdefault(parent, self.hidden_size)
            modules.setdefault(path, self.hidden_size)
            shape = self.weight_shape(on_disk)
            if len(shape) == 1:
                modules[path] = shape[0]
            elif _is_layer(path, shape):
                # Convolutions are stored in one way only.
                kernel = shape[2:]
                inputs[path], modules[path] = shape if self.transposed and not kernel else (shape[1], shape[0])
                if kernel:
                    convolutions[path] = len(kernel)
                if kernel and not reworked:
                    kernels[path] = Kernel(kernel)
            elif _is_table(path, shape) and called_by_row(path) and not reworked:
                embeddings[path], modules[path] = EmbeddingTable(shape[0]), shape[1]
        shared = self.weight_shape(self.modules[SHARED]) if SHARED in self.modules else ()
        if _is_table(SHARED, shared):
            for path in USES_OF_SHARED:
                if path not in self.modules:
                    embeddings[path], modules[path] = EmbeddingTable(shared[0]), shared[1]
        chosen = self.task_class(task)
        head = chosen.layers if chosen else self._head_on_disk(task)
        own = task is not None and has_own_head(self.config, task)
        return ModelInfo(
            model_type=self.model_type,
            architecture=chosen.architecture if chosen else self.architecture,
            prefix=(self.prefix or facts(self.model_type).prefix).rstrip("."),
            nested=bool(self.prefix),
            hidden_size=self.hidden_size,
            modules=modules,
            inputs=inputs,
            head=head,
            # Layers of these names may belong to the head of another task.
            untrained=tuple(layer for layer in head if not own or f"{layer}.weight" not in self.weights.where),
            labels=class_names(self.config) if own else None,
            head_activation=str(self.config.get(HEAD_ACTIVATION, "")),
            convolutions=convolutions,
            kernels=kernels,
            embeddings=embeddings,
        )

    def weight_shape(self, module: str) -> tuple[int, ...]:
        """Returns the shape of a module's weight, also of one that is on disk under another name only; () without a
        weight.
        """
        name = f"{module}.weight"
        name = name if name in self.weights.where else self.weights.aliases.get(name, name)
        return self.weights.entry(name).shape if name in self.weights.where else ()

    def _head_on_disk(self, task: str | None) -> tuple[str, ...]:
        if not tasks.is_labelled(task) or tasks.of_architecture(self.architecture) != task:
            return ()
        layers = {
            name.removesuffix(".weight")
            for name in self.outside
            if name.endswith(".weight") and len(self.weights.entry(name).shape) == 2
        }
        # All classes of transformers use these names for the layer whose outputs are the labels.
        return tuple(sorted(layers, key=lambda layer: (layer.endswith(("classifier", "score", "out_proj")), layer)))


def read_model_folder(folder: Path, config: Mapping[str, Any], weights: WeightHeaders) -> ModelFolder:
    """Finds the base model in the names of the tensors. Raises InputError if the config does not state the model
    type.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise InputError(f"{folder / 'config.json'}: field 'model_type': expected text, found {model_type!r}")
    names = sorted([*weights.where, *weights.aliases], key=_natural)
    prefix = f"{facts(model_type).prefix}."
    if not any(name.startswith(prefix) for name in names):
        prefix = _common_parent(names)
    modules: dict[str, str] = {}
    for name in names:
        on_disk = name.rpartition(".")[0]
        if on_disk and not _outside(name, prefix):
            path = canonical(model_type, strip_prefix(on_disk, prefix.rstrip(".")))
            if modules.setdefault(path, on_disk) != on_disk:
                raise InputError(f"model {folder}: {modules[path][:200]} and {on_disk[:200]} are one module")
    return ModelFolder(folder, config, weights, model_type, prefix, modules)


def _outside(name: str, prefix: str) -> bool:
    return not name.startswith(prefix) if prefix else name.startswith(_OUTSIDE)


def _common_parent(names: Iterable[str]) -> str:
    """Returns the name prefix of the base model, for an architecture that has no record.

    It is the prefix that both the embeddings and the layers have. It is empty if there is none, or if it is a part of a
    model itself.
    """
    parents: set[str] = set()
    for name in names:
        first, _, rest = name.partition(".")
        if re.search(r"\.\d+\.", name) or "embed" in rest or re.search(r"\bwte\b", name):
            parents.add(first)
    parent = next(iter(parents)) if len(parents) == 1 else ""
    structural = ("encoder", "decoder", "layers", "layer", "h", "text_model", "vision_model", "language_model")
    return f"{parent}." if parent and parent not in structural else ""


def _is_layer(path: str, shape: tuple[int, ...]) -> bool:
    """Returns whether the weight is that of a linear layer or a convolution, and not empty."""
    if not all(shape):
        return False
    if len(shape) in _CONVOLUTION_RANKS:
        return True
    return len(shape) == _MATRIX_RANK and not _is_table(path, shape) and not _ROUTERS.fullmatch(path)


def _is_table(path: str, shape: tuple[int, ...]) -> bool:
    """Returns whether the weight is that of an embedding, and not empty."""
    return len(shape) == _MATRIX_RANK and all(shape) and _TABLES.fullmatch(path.rpartition(".")[2]) is not None


def _parents(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Returns a sort key by which layers.2 comes before layers.10."""
    return [(0, int(part), "") if part.isdecimal() and len(part) < 10 else (1, 0, part) for part in name.split(".")]
