"""Models of two convolutions, and their inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from adapter_export.models.base_model import BaseModel
from adapter_export.models.description import describe


def convolutional(rank: int, **options: Any) -> BaseModel:
    """A model of two convolutions, 4 to 6 to 2 channels, the first as `options` say; every weight random."""
    import torch
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

    layer: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]

    class Convolutional(PreTrainedModel):
        config_class = PretrainedConfig

        def __init__(self, config: PretrainedConfig) -> None:
            super().__init__(config)
            self.first = layer(4, 6, **{"kernel_size": 3, **options})
            self.second = layer(6, 2, 1)
            self.post_init()

        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor]:
            return (self.second(torch.tanh(self.first(pixels))),)

    torch.manual_seed(0)
    module = Convolutional(PretrainedConfig(hidden_size=6, tie_word_embeddings=False)).eval().requires_grad_(False)
    return BaseModel(module, describe(module), "features", Path(), untrained_head=False)


def pixels(rank: int) -> dict[str, np.ndarray]:
    return {"pixels": np.random.default_rng(0).standard_normal((3, 4, *(5, 6, 7)[:rank])).astype(np.float32)}
