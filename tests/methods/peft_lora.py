"""Checkpoints of LoRA that PEFT writes, all of their tensors random, and what PEFT computes with them in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from adapter_export.checkpoints.folder import load_adapter, save_adapter
from adapter_export.models.base_model import BaseModel, load_base
from adapter_export.models.injection import inject
from adapter_export.models.quiet import quiet
from adapter_export.runtime.session import AdapterSession
from tests.tiny import inputs_for

WEIGHTS = "adapter_model.safetensors"
# Of float32 graphs and weights, relative to the size of the outputs.
TOLERANCE = 1e-4
PEFT_TASKS = {"text-classification": "SEQ_CLS", "causal-lm": "CAUSAL_LM", "seq2seq-lm": "SEQ_2_SEQ_LM"}


@dataclass(frozen=True)
class Case:
    """A PEFT configuration on an architecture. Empty settings are PEFT's own defaults for it."""

    model_type: str
    task: str = "causal-lm"
    settings: dict[str, Any] = field(default_factory=dict)
    note: str = "defaults"
    model: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.model_type}-{self.task}-{self.note}"


@dataclass(frozen=True)
class Trained:
    """A checkpoint that PEFT wrote, and what PEFT computes with it."""

    case: Case
    folder: Path
    base: BaseModel
    inputs: dict[str, np.ndarray]
    expected: np.ndarray

    def computed(self, module: Any) -> np.ndarray:
        """What a PyTorch model in float64 computes."""
        import torch

        with torch.no_grad():
            outputs = module(**{name: torch.from_numpy(value) for name, value in as_float64(self.inputs).items()})
        result: np.ndarray = outputs[self.output].numpy()
        return result

    @property
    def output(self) -> str:
        return "last_hidden_state" if self.case.task == "features" else "logits"

    def error(self, actual: np.ndarray) -> float:
        return float(np.abs(actual - self.expected).max() / np.abs(self.expected).max())

    def error_of(self, folder: Path) -> float:
        """Of a model folder."""
        import torch

        return self.error(self.computed(load_base(folder, self.case.task, dtype=torch.float64).module))

    def errors_in(self, bundle: Path) -> tuple[float, float]:
        """Of a bundle, with the adapter `a` and without."""
        with AdapterSession(bundle) as session:
            given = {name: value for name, value in self.inputs.items() if name in session.manifest.inputs}
            missing = {
                name: np.zeros_like(self.inputs["input_ids"])
                for name in session.manifest.graphs[session.manifest.model].given
                if name not in given
            }
            if "position_ids" in missing:
                missing["position_ids"] = np.maximum(np.cumsum(self.inputs["attention_mask"], axis=1) - 1, 0)
            values, rows = {**given, **missing}, len(next(iter(given.values())))
            by_row = session.manifest.mode == "bank"
            chosen: Mapping[str, Any] = {"adapters": ["a"] * rows} if by_row else {"adapter": "a"}
            on = session.run(values, **chosen)[self.output]
            without = on if session.manifest.mode.in_graph else session.run(values)[self.output]
        return self.error(on), self.error(without)


def as_float64(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs, with float32 as float64."""
    return {name: value.astype(np.float64) if value.dtype == np.float32 else value for name, value in inputs.items()}


def trained_by_peft(case: Case, tiny_model: Callable[..., Path], folder: Path) -> Trained:
    """Writes a checkpoint to `folder`."""
    import torch
    from peft import LoraConfig, get_peft_model

    source = tiny_model(case.model_type, case.task, **case.model)
    torch.manual_seed(0)
    settings = {"lora_dropout": 0.1, **case.settings}
    if case.task == "image-classification":
        settings["modules_to_save"] = ["classifier"]
    config = LoraConfig(task_type=PEFT_TASKS.get(case.task), **settings)
    wrapped = get_peft_model(load_base(source, case.task, dtype=torch.float64).module, config).eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                # Of single precision, as it is saved.
                parameter.copy_((torch.randn_like(parameter) * 0.3).float())
    with quiet():
        wrapped.save_pretrained(folder)
    trained = Trained(case, folder, load_base(source, case.task), inputs_for(case.model_type), np.empty(0))
    return Trained(case, folder, trained.base, trained.inputs, trained.computed(wrapped))


def check_read_and_written_again(trained: Trained, again: Path) -> None:
    """The adapter computes what PEFT computes, and is written to `again` as PEFT wrote it."""
    import torch

    adapter = load_adapter(trained.folder, trained.base.info)
    again.mkdir()
    save_adapter(again, adapter, trained.base.info, "base")
    ours, theirs = load_file(again / WEIGHTS), load_file(trained.folder / WEIGHTS)
    # PEFT saves the table of an embedding that it adapts, and needs it no more than this project.
    theirs = {name: value for name, value in theirs.items() if ".base_layer." not in name}
    assert {name: (value.shape, value.tobytes()) for name, value in ours.items()} == {
        name: (value.shape, value.astype(ours[name].dtype).tobytes()) for name, value in theirs.items()
    }
    base = load_base(trained.base.folder, trained.case.task, dtype=torch.float64)
    for folder in (trained.folder, again):
        injection = inject(base.module, load_adapter(folder, base.info))
        found = trained.computed(base.module)
        injection.remove()
        assert trained.error(found) < 1e-12
