"""What the library `adapters` (AdapterHub) knows of an architecture. None of it can be derived from the model.

It is where the library keeps adapters in tensor names, and what its own classes compute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class HubCross:
    """The adapter after cross-attention. All fields are paths below the layer.

    key: the adapter's place in tensor names. output, residual, norm: as in `record.Sublayer`.
    """

    key: str
    output: str
    residual: str
    norm: str = ""


@dataclass(frozen=True)
class HubStack:
    """The places of one stack's adapters.

    attention, output: the two places of a layer in tensor names, below the layer.
    cross: the adapter after cross-attention, or None.
    swapped: the library takes h for x and x for h after attention.
    no_x: the second adapter's x is the input of no module.
    """

    attention: str = "attention_adapters"
    output: str = "output_adapters"
    cross: HubCross | None = None
    swapped: bool = False
    no_x: bool = False


@dataclass(frozen=True)
class HubClassifier:
    """A transformers class's classifier, as the library's flexible heads describe it.

    layers: linear layers by path in the task model; POOLER stands for the base model's pooler.
    activation: between the layers, unless the model's config names one.
    pooled: it reads the pooler's output (True), the first token's (False), or the last token's (None).
    bias: of the last layer.
    """

    layers: tuple[str, ...]
    activation: str | None = None
    pooled: bool | None = False
    bias: bool = True


POOLER = "pooler"


@dataclass(frozen=True)
class HubRecord:
    """What the library knows of a `model_type`.

    known: it has classes or an interface for the model, so that its names for projections are known.
    intermediate_is_down: it calls the second layer of the feed-forward the intermediate one, and the first the output.
    interface: modules by the library's own names (see `checkpoints.adapterhub.interface`), of models that it adapts by
        hooks; empty for models that it has classes for.
    whole_layer: of those, the output of the layer is h + x of the feed-forward.
    classifiers: the flexible heads that compute what a transformers class computes.
    plain_writer: its head of an encoder-decoder adds nothing to the logits, as transformers' class.
    """

    known: bool = False
    intermediate_is_down: bool = False
    interface: Mapping[str, str] = field(default_factory=dict)
    whole_layer: bool = False
    classifiers: tuple[HubClassifier, ...] = ()
    plain_writer: bool = False
