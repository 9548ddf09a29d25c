"""The module that training runs: a frozen base model in which the few parameters of an adapter and a head are
trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from adapter_export.errors import InputError
from adapter_export.models.base_model import BaseModel
from adapter_export.training.metrics import row_statistics

if TYPE_CHECKING:
    import torch
    from torch import nn


def adapter_module(base: BaseModel) -> nn.Module:
    """Wraps a model whose trainable parameters are those with `requires_grad`.

    The module differs from other modules in two ways. It is always in eval mode: the adapter is trained on the function
    that will be served, without dropout, which also makes a run repeatable and equal for any number of processes. And
    its state dict holds the trainable parameters only, so that no checkpoint contains base weights.

    Args:
        base: The base model, with the adapter and the task head in it.

    Returns:
        A module with forward(labels, num_items_in_batch=None, **inputs) -> {"loss": scalar, "rows": (B, 4)}. The rows
        are those of `row_statistics`. loss = sum of -log p(label) / num_items_in_batch, by default divided by the
        batch's own number of labels.
    """
    from torch import nn
    from torch.nn.modules.module import _IncompatibleKeys

    class AdapterModule(nn.Module):
        # With this attribute the Trainer passes num_items_in_batch, counted over all processes and accumulation steps.
        accepts_loss_kwargs = True

        def __init__(self) -> None:
            super().__init__()
            self.model = base.module
            super().train(False)

        def train(self, mode: bool = True) -> AdapterModule:
            return super().train(False)

        def forward(
            self, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None, **inputs: Any
        ) -> dict[str, torch.Tensor]:
            if base.task != "text-classification":
                inputs = {**inputs, "use_cache": False}
            if base.task == "seq2seq-lm":
                inputs["decoder_input_ids"] = self.model.prepare_decoder_input_ids_from_labels(labels=labels)
            rows = row_statistics(self.model(**inputs).logits, labels)
            count = rows[:, 1].sum() if num_items_in_batch is None else num_items_in_batch
            return {"loss": rows[:, 0].sum() / count.clamp(min=1), "rows": rows}

        def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:  # type: ignore[override]
            return {name: value.detach() for name, value in self.named_parameters() if value.requires_grad}

        def load_state_dict(
            self, state_dict: Mapping[str, torch.Tensor], strict: bool = True, assign: bool = False
        ) -> _IncompatibleKeys:
            own = self.state_dict()
            if {name: value.shape for name, value in state_dict.items()} != {n: t.shape for n, t in own.items()}:
                raise InputError("training checkpoint: its tensors are not those of this adapter and model")
            for name, value in own.items():
                value.copy_(state_dict[name])
            return _IncompatibleKeys([], [])

    return AdapterModule()
