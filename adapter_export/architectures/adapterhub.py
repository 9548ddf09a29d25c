"""What the library `adapters` (AdapterHub) knows about an architecture. It cannot be derived from the model.

These are the places of adapters in the library's tensor names, and the arithmetic of its own classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class HubCross:
    """The adapter after cross-attention. All fields are paths below the layer.

    Attributes:
        key: The adapter's place in tensor names.
        output: As in `record.Sublayer`.
        residual: As in `record.Sublayer`.
        norm: As in `record.Sublayer`.
    """

    key: str
    output: str
    residual: str
    norm: str = ""


@dataclass(frozen=True)
class HubStack:
    """The places of the adapters of one stack.

    Attributes:
        attention: The first place of a layer in tensor names, below the layer.
        output: The second place.
        cross: The adapter after cross-attention, or None.
        swapped: Whether the library takes h for x and x for h after attention.
        no_x: Whether the x of the second adapter is the input of no module.
    """

    attention: str = "attention_adapters"
    output: str = "output_adapters"
    cross: HubCross | None = None
    swapped: bool = False
    no_x: bool = False


@dataclass(frozen=True)
class HubClassifier:
    """The classifier of a transformers class, as the library's flexible heads describe it.

    Attributes:
        layers: Linear layers by path in the task model. POOLER stands for the base model's pooler.
        activation: The function between the layers, unless the model's config names one.
        pooled: Whether it reads the pooler's output (True), the first token's (False), or the last token's (None).
        bias: Whether the last layer has a bias.
    """

    layers: tuple[str, ...]
    activation: str | None = None
    pooled: bool | None = False
    bias: bool = True


POOLER = "pooler"


@dataclass(frozen=True)
class HubRecord:
    """What the library knows about a `model_type`.

    Attributes:
        known: Whether it has classes or an interface for the model, so that its names for projections are known.
        intermediate_is_down: Whether it calls the second layer of the feed-forward "intermediate", and the first
            "output".
        interface: Modules by the library's own names (see `checkpoints.adapterhub.interface`), for models that it
            adapts by hooks; empty for models that it has classes for.
        whole_layer: For models that it adapts by hooks, whether the output of the layer is h + x of the feed-forward.
        classifiers: The flexible heads that compute what a transformers class computes.
        plain_writer: Whether its head of an encoder-decoder adds nothing to the logits, like transformers' class.
    """

    known: bool = False
    intermediate_is_down: bool = False
    interface: Mapping[str, str] = field(default_factory=dict)
    whole_layer: bool = False
    classifiers: tuple[HubClassifier, ...] = ()
    plain_writer: bool = False
