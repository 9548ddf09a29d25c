"""Loads an AdapterHub checkpoint with AdapterHub's library `adapters`, into transformers' own model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adapter_export.parity.recording.files import Mismatch, Refused, read_object
from adapter_export.parity.recording.subject import (
    Bases,
    Subject,
    chosen_names,
    class_for,
    one_line,
    silence,
)


class HubSubject(Subject):
    """An AdapterHub checkpoint, loaded by AdapterHub's library."""

    def __init__(self, bases: Bases, adapter: Path, task: str | None = None) -> None:
        """Loads the checkpoint. The arguments and errors are those of `PeftSubject`.

        With task `features` the checkpoint's head is not loaded.
        """
        import adapters
        import transformers

        self.witness = f"adapters {adapters.__version__}"
        file = adapter / "head_config.json"
        head = read_object(file) if file.is_file() and task != "features" else None
        flexible = head is not None and isinstance(head.get("config"), dict)
        classes = None
        if flexible:
            model_class: Any = adapters.AutoAdapterModel
        elif head is not None:
            model_class, classes = getattr(transformers, str(head["model_class"])), head.get("num_labels")
        else:
            model_class = class_for(bases.config, task)
        base = bases.get(model_class, classes)
        dtype = next(base.parameters()).dtype
        with silence():
            if not flexible:
                given = (adapter / "adapter_interface.json").is_file()
                adapters.init(base, interface=adapters.AdapterModelInterface._load(str(adapter)) if given else None)
            loaded: dict[str, Any] = {}
            try:
                self._name = base.load_adapter(
                    str(adapter),
                    set_active=True,
                    with_head=head is not None,
                    loading_info=loaded,
                    use_safetensors=(adapter / "adapter.safetensors").is_file(),
                )
            except Exception as error:  # the library may raise anything
                raise Refused(one_line(error)) from error
        if lost := [*loaded.get("missing_keys", ()), *loaded.get("unexpected_keys", ())]:
            raise Mismatch(f"tensor {lost[0]!r} is missing or left over ({len(lost)} in all)")
        # The parameters that the library adds have another dtype. Constants that a model stores in float32 are not
        # parameters, so they stay unchanged.
        for parameter in base.parameters():
            parameter.data = parameter.data.to(dtype)
        self.model, self.body, self.class_name = base.eval(), base.base_model, type(base).__name__
        settings = (head["config"] if flexible else head) if head is not None else {}
        kind = str(settings.get("head_type") if flexible else settings.get("model_class"))
        self.head = "classification" in kind.lower()
        names = settings.get("label2id") if self.head else None
        self.labels = chosen_names(sorted(names, key=names.get)) if names else None

    def set_active(self, active: bool) -> None:
        self.model.set_active_adapters(self._name if active else None)

    def is_adapter(self, module: str) -> bool:
        return any(part in module for part in (".adapters.", ".loras.", ".shared_parameters"))
