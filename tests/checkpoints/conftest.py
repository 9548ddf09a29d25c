"""Good adapter folders of either format, to be broken by tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.errors import InputError
from adapter_export.modelinfo import ModelInfo


@dataclass(frozen=True)
class Kind:
    """A checkpoint format: its files of tensors, today's and the older one, and the name of one tensor."""

    name: str
    method: str
    weights: str
    bin: str
    tensor: str


KINDS = {
    "peft": Kind(
        "peft",
        "ia3",
        "adapter_model.safetensors",
        "adapter_model.bin",
        "base_model.model.bert.encoder.layer.1.attention.self.key.ia3_l",
    ),
    "adapterhub": Kind(
        "adapterhub",
        "bottleneck",
        "adapter.safetensors",
        "pytorch_adapter.bin",
        "bert.encoder.layer.1.output.adapters.default.adapter_down.0.weight",
    ),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each format in turn."""
    return KINDS[request.param]


@pytest.fixture(scope="session")
def info(tiny_info: Callable[..., ModelInfo]) -> ModelInfo:
    """The base model of all these adapters: a BERT with a task head."""
    return tiny_info("bert", "text-classification")


@pytest.fixture(scope="session")
def good(
    info: ModelInfo, random_adapter: Callable[..., Adapter], save_checkpoint: Callable[..., Path]
) -> Callable[[str], Path]:
    """Called as (name of a format) -> a new folder with nothing wrong; labels `no` and `yes`."""

    def make(name: str) -> Path:
        return save_checkpoint(random_adapter(info, KINDS[name].method, labels=("no", "yes")), info)

    return make


@pytest.fixture(scope="session")
def refused(info: ModelInfo) -> Callable[..., str]:
    """Called as (folder) -> the message that loading it ends with: one line that names the folder."""

    def load(folder: Path, base: ModelInfo = info) -> str:
        with pytest.raises(InputError) as error:
            load_adapter(folder, base)
        message = str(error.value)
        assert "\n" not in message
        assert str(folder) in message
        return message

    return load
