"""A model with one adapter in it, as a library has loaded them, and how it is run."""

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
# The classes of transformers for a task that was asked for.
TASK_CLASSES: Mapping[str, tuple[str, ...]] = {
    "features": ("AutoModel",),
    "text-classification": (SEQUENCE_CLASSIFICATION,),
    "image-classification": (IMAGE_CLASSIFICATION,),
    "causal-lm": ("AutoModelForCausalLM",),
    "seq2seq-lm": ("AutoModelForSeq2SeqLM", "AutoModelForSpeechSeq2Seq"),
}


class Subject:
    """model: what is called. body: the part of it without a task head. body_only: the body's outputs are asked for.

    witness: the library and its version. class_name: of the model. head: whether the checkpoint has a task head.
    labels: the head's class names, None where nobody has named them.
    """

    model: Any
    body: Any
    witness: str
    class_name: str
    head = False
    labels: Sequence[str] | None = None
    body_only = False

    def set_active(self, active: bool) -> None:
        """Give the adapter its effect, or take it; its task head stays."""
        raise NotImplementedError

    def is_adapter(self, module: str) -> bool:
        """Whether a module of the model is a part of the adapter."""
        raise NotImplementedError

    def run(
        self, inputs: Mapping[str, np.ndarray], *, on: bool, rounding: int = 0, step: float | None = None
    ) -> dict[str, np.ndarray]:
        """Outputs by name, with the adapter or without it.

        rounding: 0 is the model as it is, every other number a way of its own to round. step: what rounding changes in
        a layer's outputs, relative to them; None is half a unit of the dtype.
        """
        import torch

        called = self.body if self.body_only else self.model
        dtype = next(called.parameters()).dtype
        given: dict[str, Any] = {}
        for name, value in inputs.items():
            tensor = torch.from_numpy(np.ascontiguousarray(value))
            given[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
        if "use_cache" in inspect.signature(self.body.forward).parameters:
            # A cache is no output of a model that scores or classifies.
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
    """Tensors of a model's outputs by name; those of outputs within outputs (CLIP's two models) with both names."""
    import torch

    for name, value in outputs.items():
        if isinstance(value, torch.Tensor):
            # numpy has no bfloat16; float32 holds every value of it.
            yield prefix + name, (value.float() if value.dtype is torch.bfloat16 else value).cpu().numpy()
        elif isinstance(value, Mapping):
            yield from named_tensors(value, f"{prefix}{name}.")


class Bases:
    """transformers' own models of one folder at one dtype, frozen: of its config and weights alone, each read once."""

    def __init__(self, folder: Path, dtype: str) -> None:
        """Raises Refused for a folder without weights, or a config that transformers does not know."""
        import transformers

        self.folder, self._dtype = folder, dtype
        self._read: dict[tuple[Any, int | None], Any] = {}
        with clean_copy(folder) as clean, silence():
            try:
                self.config = transformers.AutoConfig.from_pretrained(clean, trust_remote_code=False)
            except Exception as error:
                raise Refused(one_line(error)) from error

    def get(self, model_class: Any, num_labels: int | None = None) -> Any:
        """A model of that class to change as one likes; its tensors are shared with others of this class.

        num_labels: size of its task head, None for the base model's.
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
            # The faster ways to run experts know no float64.
            model.set_experts_implementation("eager")
        return model.eval().requires_grad_(False)


def mapped_class(name: str, config: Any) -> Any:
    """The class that the auto class called `name` loads for a config; None where it has none."""
    import transformers

    mapping = getattr(transformers, name)._model_mapping
    if type(config) not in mapping:
        return None
    found = mapping[type(config)]
    return found[0] if isinstance(found, tuple) else found


def saved_class(config: Any) -> Any:
    """The class that a base model was saved with; None where its config does not say."""
    import transformers

    named = [getattr(transformers, str(name), None) for name in getattr(config, "architectures", None) or ()]
    return next((found for found in named if found is not None), None)


def class_for(config: Any, task: str | None) -> Any:
    """The class for a task that was asked for, else the one the base model was saved with. Raises Refused."""
    found = [mapped_class(name, config) for name in TASK_CLASSES[task]] if task else [saved_class(config)]
    if (first := next((item for item in found if item is not None), None)) is None:
        raise Refused(f"transformers has no class for {config.model_type!r} {f'and task {task}' if task else 'here'}")
    return first


def base_labels(config: Mapping[str, Any], count: int) -> list[str] | None:
    """The class names in a base model's config.json, where somebody has given it `count` of them."""
    names = config.get("id2label")
    if not isinstance(names, Mapping) or len(names) != count:
        return None
    return chosen_names([str(names[key]) for key in sorted(names, key=int)])


def chosen_names(names: list[str]) -> list[str] | None:
    """Class names, unless they are the placeholders that the libraries write where nobody has named a class."""
    return None if all(name == f"LABEL_{number}" for number, name in enumerate(names)) else names


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """No progress bars and no advice from the libraries: what matters of a load is checked and raised."""
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
        """There is nothing to switch."""

    def is_adapter(self, module: str) -> bool:
        return False
