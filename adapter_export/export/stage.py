"""A stage: the part of a model that one graph is traced from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapter_export.export.samples import Sample
from adapter_export.models.base_model import BaseModel

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Stage:
    """A part of the model that can be run on its own, and an example of its inputs.

    Attributes:
        module: Runs the stage: the model itself, or a wrapper of it.
        sample: Example inputs. The axes of a cache among the inputs are a list, one item per tensor.
        cache: The model's setting `use_cache` while it is traced.
    """

    module: nn.Module
    sample: Sample
    cache: bool


# Makes a stage of a loaded model.
StageOf = Callable[[BaseModel], Stage]
