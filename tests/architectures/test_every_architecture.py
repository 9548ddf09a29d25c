"""What every architecture of the tables can do in PyTorch: IA3 as PEFT computes it, before and after merging, and
training. Bottlenecks are checked in `test_formulas`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from adapter_export.architectures.registry import model_types
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.merging.model import merge_into
from adapter_export.models.base_model import BaseModel
from adapter_export.models.injection import inject
from adapter_export.sites import Port
from tests.architectures.test_formulas import LAYERS

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-12

# Architectures, and variants as in `test_formulas`; what is below `/` there only to name another stack is left out.
CASES = [name for name, layer in LAYERS.items() if "/" not in name or layer.settings]


Case = tuple[Callable[[], BaseModel], Mapping[str, "torch.Tensor"]]


@pytest.fixture
def case(
    architecture: str, tiny_base: Callable[..., BaseModel], inputs_for: Callable[..., dict[str, np.ndarray]]
) -> Case:
    """(makes the base model in float64, inputs)."""
    import torch

    model_type, settings = architecture.partition("/")[0], LAYERS[architecture].settings or {}
    inputs = {name: torch.from_numpy(array) for name, array in inputs_for(model_type).items()}
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    return lambda: tiny_base(model_type, dtype=torch.float64, **settings), inputs


def outputs(model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Every value that the model gives, in one vector."""
    import torch

    found = model(**inputs, return_dict=True)
    names = ("last_hidden_state", "pooler_output", "encoder_last_hidden_state", "logits_per_image", "image_embeds")
    return torch.cat([found[name].flatten() for name in names if found.get(name) is not None])


def peft_model(base: BaseModel, adapter: Adapter) -> Any:
    """The same IA3 adapter in PEFT, made without the package's own reading and writing of checkpoints."""
    import peft
    import torch

    inputs = [site.module for site in adapter.sites if site.port is Port.INPUT]
    config = peft.IA3Config(
        target_modules=[site.module for site in adapter.sites],
        feedforward_modules=inputs,
        fan_in_fan_out=base.info.model_type == "gpt2",
    )
    model = peft.get_peft_model(base.module, config)
    with torch.no_grad():
        for site, site_adapter in adapter.sites.items():
            vector = model.base_model.model.get_submodule(site.module).ia3_l["default"]
            vector.data = torch.from_numpy(site_adapter.tensors["l"]).double().reshape(vector.shape)
    return model.eval()


@pytest.mark.parametrize("architecture", CASES)
def test_ia3_is_what_peft_computes(case: Case, random_adapter: Callable[..., Adapter]) -> None:
    import torch

    make, inputs = case
    base, merged = make(), make()
    adapter = random_adapter(base.info, "ia3")
    with torch.no_grad():
        off = outputs(base.module, inputs)
        inject(base.module, adapter)
        found = outputs(base.module, inputs)
        expected = outputs(peft_model(make(), adapter), inputs)
        merge_into(merged.module, adapter)
        folded = outputs(merged.module, inputs)
    assert (found - off).abs().max() > 0.05
    assert (found - expected).abs().max() < TOLERANCE
    assert (folded - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("architecture", model_types())
@pytest.mark.parametrize("options", [{}, {"placement": "houlsby"}, {"placement": "parallel"}])
def test_training_reaches_every_tensor_and_nothing_else(
    case: Case, options: dict[str, str], random_adapter: Callable[..., Adapter]
) -> None:
    import torch

    make, inputs = case
    base = make()
    before = {name: value.clone() for name, value in base.module.state_dict().items()}
    method = "bottleneck" if options else "ia3"
    injection = inject(base.module, random_adapter(base.info, method, **options))
    trained = [parameter for site in injection.parameters.values() for parameter in site.values()]
    optimizer = torch.optim.SGD(trained, lr=1e-3)
    losses = []
    for _ in range(2):
        loss = outputs(base.module, inputs).square().mean()
        optimizer.zero_grad()
        loss.backward()
        for site, parameters in injection.parameters.items():
            for name, parameter in parameters.items():
                assert parameter.grad is not None, (site.name, name)
                assert parameter.grad.abs().max() > 0, (site.name, name)
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    injection.remove()
    assert all(value.equal(before[name]) for name, value in base.module.state_dict().items())
    assert all(parameter.grad is None for parameter in base.module.parameters())


def test_every_architecture_is_tried() -> None:
    assert {name.partition("/")[0] for name in CASES} == set(model_types())
