"""Base classes of models with one adapter, loaded by another library, and the loading of base models."""

from __future__ import annotations

import contextlib
import copy
import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export.parity.recording.files import Refused, clean_copy
from adapter_export.parity.recording.precision import everything_in_float64, rounded_otherwise

SEQUENCE_CLASSIFICATION = "AutoModelForSequenceClassification"
IMAGE_CLASSIFICATION = "AutoModelForImageClassification"
# By task: the auto classes of transformers to try, in this order.
TASK_CLASSES: Mapping[str, tuple[str, ...]] = {
    "features": ("AutoModel",),
    "text-classification": (SEQUENCE_CLASSIFICATION,),
    "image-classification": (IMAGE_CLASSIFICATION,),
    "causal-lm": ("AutoModelForCausalLM",),
    "seq2seq-lm": ("AutoModelForSeq2SeqLM", "AutoModelForSpeechSeq2Seq"),
}


class Subject:
    """A model with one adapter, as another library loads it.

    Attributes:
        model: The model.
        body: The part of the model without a task head.
        witness: Name and version of the library.
        class_name: Class of the model.
        head: Whether the checkpoint has a task head.
        labels: Class names of the head; None if the classes have no names.
        body_only: Whether the body's outputs are compared instead of the model's.
    """

    model: Any
    body: Any
    witness: str
    class_name: str
    head = False
    labels: Sequence[str] | None = None
    body_only = False

    def set_active(self, active: bool) -> None:
        """Switches the adapter on or off. Its task head stays in place."""
        raise NotImplementedError

    def is_adapter(self, module: str) -> bool:
        """Returns whether the module of this name is a part of the adapter."""
        raise NotImplementedError

    def run(
        self, inputs: Mapping[str, np.ndarray], *, on: bool, rounding: int = 0, step: float | None = None
    ) -> dict[str, np.ndarray]:
        """Runs the model.

        Args:
            inputs: Arrays by name.
            on: Whether the adapter is active.
            rounding: 0 for the model as it is. Every other number is the seed of another rounding.
            step: Size of a rounding, relative to the values of a layer's output; None for half a unit in the last place
                of the dtype.

        Returns:
            Outputs by name.
        """
        import torch

        called = self.body if self.body_only else self.model
        dtype = next(called.parameters()).dtype
        given: dict[str, Any] = {}
        for name, value in inputs.items():
            tensor = torch.from_numpy(np.ascontiguousarray(value))
            given[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
        if "use_cache" in inspect.signature(self.body.forward).parameters:
            # A KV cache is not compared.
            given["use_cache"] = False
        precision: Any = contextlib.nullcontext()
        if rounding:
            precision = rounded_otherwise(called, step or torch.finfo(dtype).eps / 2, rounding)
        elif dtype is torch.float64:
            precision = everything_in_float64()
        self.set_active(on)
        with torch.inference_mode(), precision:
            return dict(named_tensors(called(**given)))


def named_tensors(outputs: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Yields the tensors of a model's outputs with their names.

    Nested outputs, as of CLIP's two models, are named by both names with a dot between them.
    """
    import torch

    for name, value in outputs.items():
        if isinstance(value, torch.Tensor):
            # numpy has no bfloat16. float32 represents all its values exactly.
            yield prefix + name, (value.float() if value.dtype is torch.bfloat16 else value).cpu().numpy()
        elif isinstance(value, Mapping):
            yield from named_tensors(value, f"{prefix}{name}.")


class Bases:
    """Loads the base models of one folder with transformers, at one dtype and without gradients.

    Only the config and the weights of the folder are read, each model class once.
    """

    def __init__(self, folder: Path, dtype: str) -> None:
        """Reads the config.

        Args:
            folder: Folder of the base model.
            dtype: Name of the dtype.

        Raises:
            Refused: The folder has no weights, or transformers does not know its config.
        """
        import transformers

        self.folder, self._dtype = folder, dtype
        self._read: dict[tuple[Any, int | None], Any] = {}
        with clean_copy(folder) as clean, silence():
            try:
                self.config = transformers.AutoConfig.from_pretrained(clean, trust_remote_code=False)
            except Exception as error:
                raise Refused(one_line(error)) from error

    def get(self, model_class: Any, num_labels: int | None = None) -> Any:
        """Returns a new model that may be changed. Its tensors are shared with other models of this class.

        Args:
            model_class: Class of the model.
            num_labels: Number of classes of the task head; None for that of the base model.
        """
        key = (model_class, num_labels)
        if key not in self._read:
            with clean_copy(self.folder) as clean, silence():
                self._read[key] = self._load(model_class, clean, num_labels)
        whole = self._read[key]
        shared = {id(tensor): tensor for tensor in (*whole.parameters(), *whole.buffers())}
        return copy.deepcopy(whole, shared)

    def _load(self, model_class: Any, folder: Path, num_labels: int | None) -> Any:
        import torch
        import transformers

        release = tuple(int(part) for part in transformers.__version__.split(".")[:2])
        options: dict[str, Any] = {"dtype" if release >= (4, 56) else "torch_dtype": getattr(torch, self._dtype)}
        if num_labels is not None:
            options |= {"num_labels": num_labels, "ignore_mismatched_sizes": True}
        model = model_class.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
        if self._dtype == "float64" and hasattr(model, "set_experts_implementation"):
            # The faster implementations of experts do not support float64.
            model.set_experts_implementation("eager")
        return model.eval().requires_grad_(False)


def mapped_class(name: str, config: Any) -> Any:
    """Returns the class that the auto class of this name loads for a config; None if there is none."""
    import transformers

    mapping = getattr(transformers, name)._model_mapping
    if type(config) not in mapping:
        return None
    found = mapping[type(config)]
    return found[0] if isinstance(found, tuple) else found


def saved_class(config: Any) -> Any:
    """Returns the class with which a base model was saved; None if its config does not name one."""
    import transformers

    named = [getattr(transformers, str(name), None) for name in getattr(config, "architectures", None) or ()]
    return next((found for found in named if found is not None), None)


def class_for(config: Any, task: str | None) -> Any:
    """Returns the class for a task, or the class with which the base model was saved if `task` is None.

    Raises:
        Refused: transformers has no such class.
    """
    found = [mapped_class(name, config) for name in TASK_CLASSES[task]] if task else [saved_class(config)]
    if (first := next((item for item in found if item is not None), None)) is None:
        raise Refused(f"transformers has no class for {config.model_type!r} {f'and task {task}' if task else 'here'}")
    return first


def base_labels(config: Mapping[str, Any], count: int) -> list[str] | None:
    """Returns the class names in a base model's config.json; None unless there are `count` names chosen by a user."""
    names = config.get("id2label")
    if not isinstance(names, Mapping) or len(names) != count:
        return None
    return chosen_names([str(names[key]) for key in sorted(names, key=int)])


def chosen_names(names: list[str]) -> list[str] | None:
    """Returns the class names; None if they are the placeholders that the libraries write for classes without names."""
    return None if all(name == f"LABEL_{number}" for number, name in enumerate(names)) else names


def one_line(error: Exception) -> str:
    """Returns the message of an error in one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Returns a context without progress bars and warnings of the libraries.

    Whatever matters about loading a model is checked and raised as an error.
    """
    from transformers.utils import logging as transformers_logging

    loggers = [logging.getLogger(name) for name in ("transformers", "adapters", "peft")]
    levels = [logger.level for logger in loggers]
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()


class PlainSubject(Subject):
    """A base model without any adapter."""

    def __init__(self, bases: Bases, model_class: Any) -> None:
        import transformers

        self.witness = f"transformers {transformers.__version__}"
        self.model = bases.get(model_class)
        self.body, self.class_name = self.model.base_model, type(self.model).__name__

    def set_active(self, active: bool) -> None:
        """Does nothing: there is no adapter."""

    def is_adapter(self, module: str) -> bool:
        return False
