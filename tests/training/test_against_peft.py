"""Training LoRA step by step against a plain loop over PEFT's own model: the same losses, and the same tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from adapter_export.methods.contract import SiteAdapter
from adapter_export.methods.lora import LoRA, LoRAOperator, LoRAOptions
from adapter_export.sites import Features, Site
from adapter_export.training import loop, train
from adapter_export.training.train import TrainResult

Trained = Callable[..., TrainResult]
UPDATES, WARM_UP, RATE = 20, 1, 1e-2
RANK, ALPHA = 4, 10.0


@dataclass
class Recorded:
    """What a run of `train` started from, what each step was given, and its loss."""

    sites: Mapping[Site, SiteAdapter] = field(default_factory=dict)
    batches: list[dict[str, torch.Tensor]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    found = Recorded()
    fit, adapter_module = train.fit, loop.adapter_module

    def recording_fit(base: Any, site_adapters: Any, *arguments: Any, **options: Any) -> Any:
        found.sites = site_adapters
        return fit(base, site_adapters, *arguments, **options)

    def recording_module(base: Any) -> torch.nn.Module:
        module = adapter_module(base)

        def record(_: Any, arguments: tuple[Any, ...], inputs: dict[str, Any], output: dict[str, Any]) -> None:
            assert not arguments
            found.batches.append({name: value for name, value in inputs.items() if name != "num_items_in_batch"})
            found.losses.append(output["loss"].item())

        module.register_forward_hook(record, with_kwargs=True)
        return module

    monkeypatch.setattr(train, "fit", recording_fit)
    monkeypatch.setattr(loop, "adapter_module", recording_module)
    return found


@pytest.mark.parametrize(
    ("model_type", "task", "settings"),
    [
        ("bert", "text-classification", {"task_type": "SEQ_CLS"}),
        # Its layers store their weights the other way round.
        ("gpt2", "causal-lm", {"task_type": "CAUSAL_LM", "fan_in_fan_out": True}),
    ],
)
def test_each_step_is_that_of_a_plain_loop_over_peft(
    trained: Trained,
    tiny_model: Callable[..., Path],
    recorded: Recorded,
    model_type: str,
    task: str,
    settings: dict[str, Any],
) -> None:
    result = trained(
        model_type, task, "lora", rows=90, max_steps=UPDATES, batch_size=8, learning_rate=RATE, rank=RANK, alpha=ALPHA
    )
    assert len(recorded.losses) == UPDATES
    model = peft_model(tiny_model(model_type, task), task, settings)
    copy_into(model, recorded.sites)
    losses = plain_loop(model, recorded.batches)
    np.testing.assert_allclose(recorded.losses, losses, rtol=1e-5)
    assert np.mean(losses[-3:]) < 0.95 * np.mean(losses[:3]), "it learns, so the steps differ"

    stored = load_file(result.output / "adapter_model.safetensors")
    theirs = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert len(stored) == len(theirs)
    for name, value in stored.items():
        (match,) = (other for path, other in theirs.items() if _plain(path) == _plain(name))
        assert torch.allclose(value, match, atol=2e-5), name


def _plain(name: str) -> str:
    return name.replace(".default", "").replace(".modules_to_save", "")


def peft_model(folder: Path, task: str, settings: dict[str, Any]) -> Any:
    """Returns the model in PEFT, without dropout."""
    import transformers
    from peft import LoraConfig, get_peft_model

    name = "AutoModelForSequenceClassification" if task == "text-classification" else "AutoModelForCausalLM"
    model = getattr(transformers, name).from_pretrained(folder)
    return get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, **settings)).eval()


def copy_into(model: Any, sites: Mapping[Site, SiteAdapter]) -> None:
    """Gives PEFT's model the tensors that our run started from."""
    parameters = {name: value for name, value in model.named_parameters() if ".lora_" in name}
    assert len(parameters) == 2 * len(sites)
    with torch.no_grad():
        for site, site_adapter in sites.items():
            for part, tensor in site_adapter.tensors.items():
                (name,) = (name for name in parameters if f".{site.module}.lora_{part.upper()}." in name)
                parameters[name].copy_(torch.from_numpy(tensor.T.copy()))


def plain_loop(model: Any, batches: list[dict[str, torch.Tensor]]) -> list[float]:
    """Returns the loss of each step of AdamW; the rate rises over 6% of the steps, then falls to zero."""
    parameters = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
    losses = []
    for number, batch in enumerate(batches):
        labels = batch["labels"]
        logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        left = (UPDATES - number) / (UPDATES - WARM_UP)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(number / WARM_UP, left)
        optimizer.step()
    return losses


def test_fresh_tensors_follow_the_law_of_peft() -> None:
    from peft import LoraConfig, get_peft_model

    inputs, rank = 256, 128
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Linear(inputs, 16))
    theirs = get_peft_model(layer, LoraConfig(r=rank, target_modules=["0"])).base_model.model[0]
    features, options = Features(inputs, 16), LoRAOptions(rank=rank)
    rng = np.random.default_rng(0)
    fresh = [LoRA().initial(LoRAOperator(), features, options, rng).tensors for _ in range(2)]
    expected = theirs.lora_A["default"].weight.detach().numpy()
    places = np.linspace(0, 1, 21)
    for tensors in fresh:
        assert tensors["a"].T.shape == expected.shape
        assert tensors["b"].T.shape == theirs.lora_B["default"].weight.shape
        assert not tensors["b"].any()
        assert not theirs.lora_B["default"].weight.any()
        # 32,768 values: the quantiles of two samples differ by some thousandths of the width, 2 / sqrt(inputs).
        found = np.quantile(tensors["a"], places) - np.quantile(expected, places)
        assert np.abs(found).max() < 0.02 * 2 / np.sqrt(inputs)
        # Values are drawn one by one: rows and columns do not correlate.
        assert np.abs(np.corrcoef(tensors["a"].T) - np.eye(rank)).max() < 0.4
    assert not np.isclose(fresh[0]["a"], fresh[1]["a"]).all(0).any(), "each layer has values of its own"
