"""PEFT's own `PeftModel` over transformers' own model, unmerged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapter_export.parity.recording.files import Mismatch, Refused, read_object
from adapter_export.parity.recording.subject import (
    IMAGE_CLASSIFICATION,
    SEQUENCE_CLASSIFICATION,
    TASK_CLASSES,
    Bases,
    Subject,
    base_labels,
    chosen_names,
    mapped_class,
    one_line,
    saved_class,
    silence,
)

# PEFT's task types, and the classes that its documentation loads the base model with.
PEFT_CLASSES: Mapping[str, tuple[str, ...]] = {
    "SEQ_CLS": (SEQUENCE_CLASSIFICATION,),
    "TOKEN_CLS": ("AutoModelForTokenClassification",),
    "QUESTION_ANS": ("AutoModelForQuestionAnswering",),
    "CAUSAL_LM": ("AutoModelForCausalLM",),
    "SEQ_2_SEQ_LM": ("AutoModelForSeq2SeqLM", "AutoModelForSpeechSeq2Seq"),
    "FEATURE_EXTRACTION": ("AutoModel",),
}
FEATURES = "FEATURE_EXTRACTION"
_PREFIX = "base_model.model."
_SAVED = ".modules_to_save"
# Of language models, which are no task head.
_OUTPUT_LAYERS = ("lm_head", "embed_out", "proj_out")


class PeftSubject(Subject):
    """A PEFT checkpoint in PEFT."""

    def __init__(self, bases: Bases, adapter: Path, task: str | None = None) -> None:
        """task: the one that was asked for; None leaves it to the checkpoint, then to the base model's config.

        Raises Refused where PEFT cannot load the checkpoint, and Mismatch where it leaves a part of it out.
        """
        import peft

        self.witness = f"peft {peft.__version__}"
        settings = read_object(adapter / "adapter_config.json")
        shapes = tensor_shapes(adapter)
        task_type = str(settings.get("task_type"))
        model_class, inside = _class_of(bases.config, task_type, shapes, task)
        classes = _saved_classes(model_class, bases.config, shapes)
        base = bases.get(model_class, classes)
        with silence():
            try:
                loaded, result = _load(base.base_model if inside else base, adapter, whole=not inside)
            except Exception as error:  # PEFT raises what it likes
                raise Refused(one_line(error)) from error
        _check_keys(loaded, list(result.missing_keys), list(result.unexpected_keys))
        # transformers' own model with PEFT's layers in it: PEFT's wrapper around it takes texts alone.
        self.model = base.eval()
        self.body, self.class_name = self.model.base_model, type(self.model).__name__
        self.head = classes is not None
        # Of a checkpoint with a head that was not asked for, the body is read.
        features = task == "features" or task_type == FEATURES
        self.body_only = features and self.model is not self.body
        # PEFT stores no class names: they are in a file of adapter-export's beside the checkpoint, or the base model's.
        beside = adapter / "adapter_export.json"
        noted = read_object(beside) if beside.is_file() else {}
        own, pad = noted.get("labels"), noted.get("pad_token_id")
        if getattr(self.model.config, "pad_token_id", None) is None and pad is not None:
            # As training set it, for a base model that names none.
            self.model.config.pad_token_id = pad
        names = base_labels(read_object(bases.folder / "config.json"), classes or 0)
        self.labels = chosen_names([str(name) for name in own]) if own else names

    def set_active(self, active: bool) -> None:
        # Not PEFT's `disable_adapter`, which would put the base model's task head in the place of the adapter's.
        from peft.tuners.tuners_utils import BaseTunerLayer

        for layer in self.model.modules():
            if isinstance(layer, BaseTunerLayer):
                layer.enable_adapters(active)

    def is_adapter(self, module: str) -> bool:
        return ".ia3_l" in module


def tensor_shapes(adapter: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of a PEFT checkpoint's tensors, by name without PEFT's prefix."""
    path = adapter / "adapter_model.safetensors"
    if path.is_file():
        from safetensors import safe_open

        with safe_open(path, "numpy") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    else:
        import torch

        state = torch.load(adapter / "adapter_model.bin", map_location="cpu", weights_only=True)
        shapes = {str(name): tuple(tensor.shape) for name, tensor in state.items()}
    return {name.removeprefix(_PREFIX): shape for name, shape in shapes.items()}


def _module_of(key: str) -> str:
    """The module that a checkpoint's tensor belongs to: without the tensor's name, nor what PEFT puts around it."""
    path = key.rpartition(".")[0] if not key.endswith(".ia3_l") else key.removesuffix(".ia3_l")
    return path.partition(_SAVED)[0].partition(".ia3_l")[0]


def _class_of(config: Any, task_type: str, shapes: Mapping[str, Any], task: str | None) -> tuple[Any, bool]:
    """The class to load the base model with: the checkpoint's task tells it; else the first that has all modules that
    the checkpoint names, of the task asked for, the class the base model was saved with, and those with a head.

    And whether PEFT's place is its body: a checkpoint that was saved from there has names without the body's own.
    """
    if task_type in PEFT_CLASSES:
        found = [mapped_class(name, config) for name in PEFT_CLASSES[task_type]]
        if task_type == FEATURES:  # of a body that was trained under a head
            found.append(saved_class(config))
    else:
        names = (*TASK_CLASSES.get(task or "", ()), "", SEQUENCE_CLASSIFICATION, IMAGE_CLASSIFICATION, "AutoModel")
        found = [mapped_class(name, config) if name else saved_class(config) for name in names]
    candidates = [item for item in found if item is not None]
    if not candidates:
        raise Refused(f"transformers has no class for {config.model_type!r} and PEFT's task {task_type}")
    wanted = {_module_of(key) for key in shapes}
    for item in candidates:
        modules = set(_modules(item, config))
        if wanted <= modules:
            return item, False
        if {f"{item.base_model_prefix}.{name}" for name in wanted} <= modules:
            return item, True
    return candidates[0], False


def _modules(model_class: Any, config: Any) -> dict[str, Any]:
    """The modules of a class by path, without weights."""
    import torch

    with torch.device("meta"):
        return dict(model_class._from_config(config).named_modules())


def _saved_classes(model_class: Any, config: Any, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """How many classes the checkpoint's own task head has: the rows of its last layer; None without a head."""
    from torch import nn

    body = f"{model_class.base_model_prefix}."
    saved = {_module_of(key): shape[0] for key, shape in shapes.items() if key.endswith("weight") and len(shape) == 2}
    rows = [
        saved[name]
        for name, layer in _modules(model_class, config).items()
        if isinstance(layer, nn.Linear) and name in saved and name not in _OUTPUT_LAYERS and not name.startswith(body)
    ]
    return rows[-1] if rows else None


def _load(base: Any, adapter: Path, *, whole: bool) -> tuple[Any, Any]:
    """What `PeftModel.from_pretrained` does, in `base` itself, and the keys it missed or did not expect, of which that
    only warns. whole: whether `base` is of the class that the checkpoint's task has, not the body of one."""
    import peft

    config = peft.PeftConfig.from_pretrained(str(adapter))
    config.inference_mode = True
    classes = peft.MODEL_TYPE_TO_PEFT_MODEL_MAPPING if whole else {}
    model_class = classes.get(config.task_type, peft.PeftModel)
    loaded = model_class(base, config, autocast_adapter_dtype=False)
    return loaded, loaded.load_adapter(str(adapter), "default", autocast_adapter_dtype=False)


def _check_keys(loaded: Any, missing: list[str], unexpected: list[str]) -> None:
    """Raise Mismatch where PEFT took only a part of the tensors, Refused where the model has no such modules at all."""
    if not missing and not unexpected:
        return
    modules = {name.replace(".base_layer", "") for name, _ in loaded.named_modules()}
    strangers = [key for key in unexpected if _module_of(key) not in modules]
    if strangers and len(strangers) == len(unexpected):
        raise Refused(f"this version of transformers has no module for tensor {strangers[0]!r}")
    key, what = (missing[0], "is missing") if missing else (unexpected[0], "belongs to no module that PEFT adapts")
    raise Mismatch(f"tensor {key!r} {what} ({len(missing)} missing, {len(unexpected)} left over)")
