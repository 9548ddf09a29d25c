"""What must be known of a base model to place adapters in it, without the model itself."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from adapter_export.architectures.registry import facts
from adapter_export.errors import InputError
from adapter_export.reading.declared import Between, OptionalSha256, Size
from adapter_export.sites import Features, Port, Site

# Field of a model's config, where there is one, for `ModelInfo.head_activation`.
HEAD_ACTIVATION = "pooler_hidden_act"


@dataclass(frozen=True)
class ModelInfo:
    """Names and sizes of a base model; made from the loaded model or read from a bundle's manifest.

    model_type, architecture: as in the model's config (`bert`, `BertForSequenceClassification`).
    prefix: what a task class puts before the base model's module paths (`bert`).
    nested: whether the class described is such a task class (not so for a base class, nor for T5's generation class).
    modules: every module path inside the base model (without the prefix) with its features, the size of the last axis
        of its output (a convolution's channels; the hidden size for anything but linear layers, convolutions, norms, 0
        where that is not known).
    hidden_size: 0 for a model that has none, whose stages are of different widths.
    inputs: features of the input of the linear layers and convolutions among them.
    head: paths of the task head's linear layers in the task model, in the model's order; empty without a task head.
    untrained: those of them that the base model's checkpoint does not hold.
    convolutions: number of spatial axes of the convolutions among the modules: features are the axis before those.
    unread: modules whose weights the checkpoint does not hold and no output reads (a pooler, for features).
    head_activation: what the config names for between the head's layers; empty where the class itself fixes it.
    labels: class names that the base model's config gives, for a head of its own or of adapters that have none.
    sha256: of the base model's weights; see `checkpoints.weights.weights_sha256`. Empty for a model made in memory.
    """

    model_type: str
    architecture: str
    prefix: str
    nested: bool
    hidden_size: Size
    modules: Mapping[str, Size]
    inputs: Mapping[str, Size]
    head: tuple[str, ...] = ()
    untrained: tuple[str, ...] = ()
    convolutions: Mapping[str, Annotated[int, Between(1, 3)]] = field(default_factory=dict)
    sha256: OptionalSha256 = ""
    unread: tuple[str, ...] = ()
    labels: tuple[str, ...] | None = None
    head_activation: str = ""

    @property
    def pooler(self) -> str:
        """Path in the task model of a layer of the base model, with tanh after it, that a classifier of whole texts
        reads and nothing else: an adapter's head may begin with it. Empty where there is none."""
        path = facts(self.model_type).pooler
        return f"{self.prefix}.{path}" if path else ""

    def features(self, site: Site) -> Features:
        """Sizes of what an adapter reads and replaces at a site. Raises InputError when the model has no such module,
        or the module no input or output of known size."""
        if site.module not in self.modules:
            close = difflib.get_close_matches(site.module, self.modules, n=3, cutoff=0.6)
            hint = f"; close ones: {', '.join(close)}" if close else ""
            raise InputError(f"module {site.module!r} is not in the {self.model_type} model{hint}")
        outputs, inputs = self.modules[site.module], self.inputs.get(site.module, 0)
        if site.port is not Port.INPUT and not outputs:
            raise InputError(
                f"module {site.module!r}: its output has no size that the {self.model_type} model's config tells; "
                "expected a linear layer, a convolution or a norm"
            )
        if site.port in (Port.INPUT, Port.BRANCH) and not inputs:
            raise InputError(f"module {site.module!r}: expected a linear layer or a convolution to read the input of")
        match site.port:
            case Port.INPUT:
                return Features(inputs, inputs)
            case Port.BRANCH:
                return Features(inputs, outputs)
            case _:
                return Features(outputs, outputs)
