"""Loads a PEFT checkpoint with PEFT's own `PeftModel`, unmerged, into transformers' own model."""

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

# By task type of PEFT: the classes with which PEFT's documentation loads the base model.
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
# Parts of names that belong to an adapter: those of IA3 and of LoRA.
_OWN_PARTS = (".ia3_l", ".lora_")
# Names of the output layers of language models. They are not task heads.
_OUTPUT_LAYERS = ("lm_head", "embed_out", "proj_out")


class PeftSubject(Subject):
    """A PEFT checkpoint, loaded by PEFT."""

    def __init__(self, bases: Bases, adapter: Path, task: str | None = None) -> None:
        """Loads the checkpoint.

        Args:
            bases: Loads the base model.
            adapter: Folder of the checkpoint.
            task: The task to load the model for; None to take it from the checkpoint or else from the base model's
                config.

        Raises:
            Refused: PEFT cannot load the checkpoint.
            Mismatch: PEFT loads a part of the checkpoint only.
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
            except Exception as error:  # PEFT may raise anything
                raise Refused(one_line(error)) from error
        _check_keys(loaded, list(result.missing_keys), list(result.unexpected_keys))
        # transformers' own model with PEFT's layers in it is used, because PEFT's wrapper around it accepts texts only.
        self.model = base.eval()
        self.body, self.class_name = self.model.base_model, type(self.model).__name__
        self.head = classes is not None
        # For the task `features` the outputs of the body are compared, even if the checkpoint has a task head.
        features = task == "features" or task_type == FEATURES
        self.body_only = features and self.model is not self.body
        # PEFT stores no class names. They are in a file that adapter-export writes next to the checkpoint, or else in
        # the config of the base model.
        beside = adapter / "adapter_export.json"
        noted = read_object(beside) if beside.is_file() else {}
        own, pad = noted.get("labels"), noted.get("pad_token_id")
        if getattr(self.model.config, "pad_token_id", None) is None and pad is not None:
            # The base model has no padding id; this is the one that was used in training.
            self.model.config.pad_token_id = pad
        names = base_labels(read_object(bases.folder / "config.json"), classes or 0)
        self.labels = chosen_names([str(name) for name in own]) if own else names

    def set_active(self, active: bool) -> None:
        # PEFT's `disable_adapter` is not used: it would also replace the adapter's task head by the base model's.
        from peft.tuners.tuners_utils import BaseTunerLayer

        for layer in self.model.modules():
            if isinstance(layer, BaseTunerLayer):
                layer.enable_adapters(active)

    def is_adapter(self, module: str) -> bool:
        return any(part in module for part in _OWN_PARTS)


def tensor_shapes(adapter: Path) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a PEFT checkpoint's tensors, by name without PEFT's prefix."""
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
    """Returns the path of the module that a checkpoint's tensor belongs to, without the parts that PEFT adds."""
    path = key if key.endswith(_OWN_PARTS) else key.rpartition(".")[0]
    for part in (_SAVED, *_OWN_PARTS):
        path = path.partition(part)[0]
    return path


def _class_of(config: Any, task_type: str, shapes: Mapping[str, Any], task: str | None) -> tuple[Any, bool]:
    """Returns the class with which to load the base model.

    It is given by the checkpoint's task type. If there is none, it is the first class that has all modules that the
    checkpoint names, among the classes of the requested task, the class with which the base model was saved, and the
    classes with a task head.

    Args:
        config: The base model's config.
        task_type: Task type of the checkpoint.
        shapes: Shapes of the checkpoint's tensors by name.
        task: The requested task; None if there is none.

    Returns:
        The class, and whether PEFT must be applied to the body of the model. A checkpoint that was saved from the body
        has module paths without the name of the body.

    Raises:
        Refused: transformers has no class for this config and task type.
    """
    if task_type in PEFT_CLASSES:
        found = [mapped_class(name, config) for name in PEFT_CLASSES[task_type]]
        if task_type == FEATURES:  # the body may have been trained below a task head
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
    """Returns the modules of a model class by path, without weights."""
    import torch

    with torch.device("meta"):
        return dict(model_class._from_config(config).named_modules())


def _saved_classes(model_class: Any, config: Any, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Returns the number of classes of the checkpoint's own task head: the rows of its last layer.

    None if it has no head.
    """
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
    """Loads a checkpoint into `base` as `PeftModel.from_pretrained` does.

    Args:
        base: The base model. Changed in place.
        adapter: Folder of the checkpoint.
        whole: Whether `base` is a model with a head, and not the body of one.

    Returns:
        The loaded model, and PEFT's result with the missing and the unexpected keys, for which `from_pretrained` only
        warns.
    """
    import peft

    config = peft.PeftConfig.from_pretrained(str(adapter))
    config.inference_mode = True
    classes = peft.MODEL_TYPE_TO_PEFT_MODEL_MAPPING if whole else {}
    model_class = classes.get(config.task_type, peft.PeftModel)
    loaded = model_class(base, config, autocast_adapter_dtype=False)
    return loaded, loaded.load_adapter(str(adapter), "default", autocast_adapter_dtype=False)


def _check_keys(loaded: Any, missing: list[str], unexpected: list[str]) -> None:
    """Checks that PEFT loaded all tensors.

    Raises:
        Refused: The model has none of the modules of the tensors that PEFT did not load.
        Mismatch: PEFT loaded a part of the tensors only.
    """
    if not missing and not unexpected:
        return
    modules = {name.replace(".base_layer", "") for name, _ in loaded.named_modules()}
    strangers = [key for key in unexpected if _module_of(key) not in modules]
    if strangers and len(strangers) == len(unexpected):
        raise Refused(f"this version of transformers has no module for tensor {strangers[0]!r}")
    key, what = (missing[0], "is missing") if missing else (unexpected[0], "belongs to no module that PEFT adapts")
    raise Mismatch(f"tensor {key!r} {what} ({len(missing)} missing, {len(unexpected)} left over)")
