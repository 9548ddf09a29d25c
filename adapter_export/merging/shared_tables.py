"""Refuses to change an embedding that is the output layer too.

An adapter of an embedding changes what the model reads, and not what it writes. With tied weights, both are one table.
PEFT computes with two different tables as long as the adapter is not merged, and a file of the model holds only one.
"""

from __future__ import annotations

from collections.abc import Iterable

from adapter_export import tasks
from adapter_export.errors import CannotMerge
from adapter_export.merging.model_folder import ModelFolder
from adapter_export.merging.piecewise import TensorChange

_TIED = "tie_word_embeddings"


def refuse_shared(model: ModelFolder, changes: Iterable[TensorChange], architecture: str) -> None:
    """Raises CannotMerge if a changed embedding is the output layer of the merged model too.

    The files do not say which weights are tied: a tied output layer is left out of them. So it is found by the class of
    the merged model, by its config, and by the sizes of its other matrices.

    Args:
        model: The base model.
        changes: The changes.
        architecture: Class of the merged model.
    """
    task = tasks.of_architecture(architecture)
    if task == "features" or tasks.is_labelled(task) or task in tasks.UNSERVED or _says_untied(model):
        return
    on_disk, embeddings = model.modules, model.info(None).embeddings
    tables = {f"{on_disk[path]}.weight": table for path, table in embeddings.items() if path in on_disk}
    words = _words(model)
    for change in changes:
        if change.name in tables and words in (None, tables[change.name].rows):
            raise CannotMerge(
                f"tensor {change.name}: {architecture} has this table as its output layer too ({_TIED}), which "
                "the adapter does not change; save the model with a weight of its own for each, or export with --mode "
                "swappable"
            )


def _says_untied(model: ModelFolder) -> bool:
    said = _field(model, _TIED)
    if said is None:
        # Without the field, the class decides. Where it does not tie them, the output layer is in the files.
        words = _words(model)
        shapes = (model.weights.entry(name).shape for name in model.outside)
        return any(len(shape) > 1 and shape[0] == words for shape in shapes)
    return not said


def _words(model: ModelFolder) -> object:
    """Returns the size of the vocabulary; None if the config names none."""
    return _field(model, "vocab_size")


def _field(model: ModelFolder, name: str) -> object:
    text = model.config.get("text_config")
    own = model.config.get(name)
    return text.get(name) if own is None and isinstance(text, dict) else own
