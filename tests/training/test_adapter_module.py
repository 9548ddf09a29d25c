"""The module that training runs: never in training mode, and no more state than what learns."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.errors import InputError
from adapter_export.models.base_model import BaseModel
from adapter_export.models.injection import Injection
from adapter_export.training.adapter_module import adapter_module

BATCH = {
    "input_ids": torch.tensor([[2, 5, 9, 3], [2, 7, 3, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
    "labels": torch.tensor([1, 2]),
}


def learning(base: BaseModel, adapter: Adapter) -> torch.nn.Module:
    Injection(base.module, adapter.sites)
    for name in base.info.head:
        base.module.get_submodule(name).requires_grad_(True)
    return adapter_module(base)


@pytest.fixture
def module(tiny_base: Callable[..., BaseModel], random_adapter: Callable[..., Adapter]) -> torch.nn.Module:
    base = tiny_base("bert", "text-classification", hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    return learning(base, random_adapter(base.info, "ia3"))


def test_train_mode_does_not_switch_dropout_on(module: torch.nn.Module) -> None:
    module.train()
    assert not any(child.training for child in module.modules())
    assert torch.equal(module(**BATCH)["rows"], module(**BATCH)["rows"])


def test_only_what_learns_gets_gradients_and_is_state(module: torch.nn.Module) -> None:
    module(**BATCH)["loss"].backward()
    learned = {name for name, value in module.named_parameters() if value.grad is not None}
    assert learned == set(module.state_dict())
    assert sorted(learned)[0] == "model.adapter_sites.0.l"
    assert {name for name in learned if "adapter_sites" not in name} == {
        "model.classifier.weight",
        "model.classifier.bias",
    }


def test_loss_is_a_sum_over_the_update_not_a_mean_over_the_batch(module: torch.nn.Module) -> None:
    whole = module(**BATCH)["loss"]
    assert torch.allclose(whole, module(**BATCH, num_items_in_batch=torch.tensor(2))["loss"])
    assert torch.allclose(whole / 4, module(**BATCH, num_items_in_batch=torch.tensor(8))["loss"])


def test_state_is_restored_exactly_and_only_its_own(module: torch.nn.Module) -> None:
    saved = {name: value.clone() for name, value in module.state_dict().items()}
    with torch.no_grad():
        for value in module.state_dict().values():
            value.add_(1.0)
    module.load_state_dict(saved)
    assert all(torch.equal(value, saved[name]) for name, value in module.state_dict().items())
    for wrong in ({}, {**saved, "model.classifier.bias": torch.zeros(4)}):
        with pytest.raises(InputError, match="its tensors are not those of this adapter"):
            module.load_state_dict(wrong)


def test_seq2seq_loss_is_transformers_own(
    tiny_base: Callable[..., BaseModel], random_adapter: Callable[..., Adapter]
) -> None:
    base = tiny_base("t5", "seq2seq-lm")
    module = learning(base, random_adapter(base.info, "ia3"))
    batch = {**BATCH, "labels": torch.tensor([[5, 6, 3], [8, 3, -100]])}
    assert torch.allclose(module(**batch)["loss"], base.module(**batch).loss)
