"""Names and sizes of a base model, which are needed to place adapters in it, without the model itself."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from adapter_export.architectures.registry import facts
from adapter_export.errors import InputError
from adapter_export.reading.declared import Between, OptionalSha256, Real, Size
from adapter_export.sites import Features, Port, Site

# The field of a model's config for `ModelInfo.head_activation`.
HEAD_ACTIVATION = "pooler_hidden_act"


@dataclass(frozen=True)
class Kernel:
    """How a convolution moves its kernel.

    Attributes:
        size: Sizes of the kernel, one for each spatial axis.
        stride: Steps along these axes. Empty if only the weights are known, as in the files of a model.
        padding: Zeros before each axis, then those after each axis, as a kernel that is not dilated needs them. Empty
            if it is not known.
        groups: Number of groups. With more than one, an output reads the inputs of its own group only.
        plain: Whether the kernel is not dilated and its input is padded with zeros. Where only the weights are known,
            it is taken for granted.
    """

    size: tuple[Size, ...]
    stride: tuple[Size, ...] = ()
    padding: tuple[Size, ...] = ()
    groups: Size = 1
    plain: bool = True


@dataclass(frozen=True)
class EmbeddingTable:
    """An embedding that is called with the numbers of its rows.

    Attributes:
        rows: Number of rows, each with the features of the output.
        scale: What the module multiplies the rows by. Where only the weights are known, it is 1.
    """

    rows: Size
    scale: Real = 1.0


@dataclass(frozen=True)
class ModelInfo:
    """Names and sizes of a base model, from the loaded model or from a bundle's manifest.

    Attributes:
        model_type: As in the model's config (`bert`).
        architecture: As in the model's config (`BertForSequenceClassification`).
        prefix: The prefix of a task class before the base model's module paths (`bert`).
        nested: Whether the described class is such a task class. A base class is not, and T5's generation class is not.
        hidden_size: The hidden size; 0 for a model whose stages have different ones.
        modules: Every module path inside the base model (without the prefix) with its features, which are the size of
            the last axis of its output: a convolution's channels; the hidden size for anything but linear layers,
            convolutions and norms; 0 if that is not known.
        inputs: Features of the input of those modules that are linear layers or convolutions.
        head: Paths of the task head's linear layers in the task model, in the model's order; empty without a task head.
        untrained: Those of them that the base model's checkpoint lacks.
        convolutions: Number of spatial axes of those modules that are convolutions. The features axis comes before
            them.
        kernels: The kernels of those convolutions that compute what PyTorch's class computes; empty in older bundles,
            which did not record them.
        embeddings: Those modules that are embeddings, if they are called with the numbers of their rows; empty in older
            bundles.
        sha256: Digest of the base model's weights, see `checkpoints.weights.weights_sha256`. Empty for a model that was
            made in memory.
        unread: Modules whose weights the checkpoint lacks and no output reads (a pooler, for task features).
        labels: Class names of the base model's config, for a head of its own or of adapters that have none.
        head_activation: The activation that the config names for between the head's layers; empty if the class fixes
            it.
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
    kernels: Mapping[str, Kernel] = field(default_factory=dict)
    embeddings: Mapping[str, EmbeddingTable] = field(default_factory=dict)
    sha256: OptionalSha256 = ""
    unread: tuple[str, ...] = ()
    labels: tuple[str, ...] | None = None
    head_activation: str = ""

    @property
    def pooler(self) -> str:
        """Path, in the task model, of a layer of the base model, with tanh after it, that only a classifier of whole
        texts reads.

        An adapter's head may begin with this layer. Empty if there is none.
        """
        path = facts(self.model_type).pooler
        return f"{self.prefix}.{path}" if path else ""

    def features(self, site: Site) -> Features:
        """Returns the sizes of the values that an adapter reads and replaces at a site.

        An embedding reads numbers of its rows, which have no features. Its inputs are its rows, as in the linear layer
        that reads each number as a vector with a single one.

        Raises:
            InputError: The model has no such module, or the module has no input or output of known size.
        """
        if site.module not in self.modules:
            close = difflib.get_close_matches(site.module, self.modules, n=3, cutoff=0.6)
            hint = f"; close ones: {', '.join(close)}" if close else ""
            raise InputError(f"module {site.module!r} is not in the {self.model_type} model{hint}")
        outputs, inputs = self.modules[site.module], self.inputs.get(site.module, 0)
        if site.port is Port.BRANCH and site.module in self.embeddings:
            inputs = self.embeddings[site.module].rows
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
