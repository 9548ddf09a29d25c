"""An adapter in memory, in the same form for all checkpoint formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adapter_export.errors import InputError
from adapter_export.methods.contract import SiteAdapter
from adapter_export.modelinfo import ModelInfo
from adapter_export.sites import Features, Site


@dataclass(frozen=True)
class HeadLayer:
    """One linear layer of a task head.

    Attributes:
        weight: (n, d), as in `torch.nn.Linear`.
        bias: (n,) or None.
    """

    weight: np.ndarray
    bias: np.ndarray | None


# Some checkpoints of language models repeat the base model's own output layer, under this name. It is no task head: it
# must equal the model's layer, and is never swapped.
LM_HEAD = "lm_head"
# Names of the output layer of language models.
OUTPUT_LAYERS = (LM_HEAD, "embed_out", "proj_out")


@dataclass(frozen=True)
class Adapter:
    """One trained set of tensors for a base model.

    Attributes:
        method: Name of the method.
        sites: Operator and tensors of each site, with canonical names.
        head: Layers of the task head by module path in the task model (`classifier`, `classifier.out_proj`); empty
            without a task head.
        labels: Class names in the order of the head's outputs; None if the checkpoint has none.
        task: A name in `tasks.TASKS`; None if the checkpoint does not state the task.
        source_format: The format of the checkpoint; `memory` without a checkpoint.
        base_sha256: Digest of the weights of the base model that was trained on, if the checkpoint recorded it.
        stored: The half-precision dtypes that tensors have in the checkpoint, by `<module path>.<tensor>`, so that the
            checkpoint can be written again as it was. In memory these tensors are float32, which holds the same values.
        notes: What the user should know about the checkpoint, one sentence each.
        problem_type: Meaning of the task head's numbers, by transformers' names: `single_label_classification` (one of
            several classes), `multi_label_classification` (any number of classes) or `regression` (values). None if the
            checkpoint does not state it.
        source: `org/name@commit` of a checkpoint from the Hugging Face hub; None for any other.
        source_sha256: Digest of the checkpoint, see `checkpoints.weights.checkpoint_sha256`; None without a checkpoint.
        labels_given: Whether the labels are the user's and not the checkpoint's.
        repeated: Weights of the base model that the checkpoint holds too, by module path. They must equal the model's
            (see `injection.complete_head`).
        pad_token_id: The padding token of the training, if it was chosen for a base model that names none.
        license: The license that README.md of the checkpoint states, see `licenses.Stated`; None if it states none.
        base_model: `org/name` of the base model that README.md states; None if it states none.
    """

    method: str
    sites: Mapping[Site, SiteAdapter]
    head: Mapping[str, HeadLayer] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    task: str | None = None
    source_format: str = "memory"
    base_sha256: str | None = None
    stored: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    problem_type: str | None = None
    source: str | None = None
    source_sha256: str | None = None
    labels_given: bool = False
    repeated: Mapping[str, np.ndarray] = field(default_factory=dict)
    pad_token_id: int | None = None
    license: str | None = None
    base_model: str | None = None

    @property
    def num_labels(self) -> int | None:
        """Number of outputs of the task head's last layer; None without a task head."""
        layers = [layer for name, layer in self.head.items() if name != LM_HEAD]
        return int(layers[-1].weight.shape[0]) if layers else None

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels, or transformers' placeholders (`LABEL_0`, ...) if there are none."""
        return self.labels or tuple(f"LABEL_{i}" for i in range(self.num_labels or 0))

    @property
    def parameters(self) -> int:
        """Number of trained values, task head included."""
        body = sum(tensor.size for site_adapter in self.sites.values() for tensor in site_adapter.tensors.values())
        head = sum(layer.weight.size + (0 if layer.bias is None else layer.bias.size) for layer in self.head.values())
        return int(body + head)


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint folder, before its names are resolved against a base model.

    Attributes:
        folder: The folder.
        format: Name of the format.
        config: Content of the adapter's config file.
        tensors: Tensors of the adapter, by the checkpoint's own names.
        head: Tensors of a head that is kept in a file of its own, by the checkpoint's own names.
        head_config: Content of the head's config file.
        sidecar: Content of this project's own file beside those of the format (labels, digest of the base model).
        stored: See `Adapter`, by the checkpoint's own names.
        interface: AdapterHub's description of the model, if there is one (see `adapterhub.interface`).
    """

    folder: Path
    format: str
    config: dict[str, Any]
    tensors: Mapping[str, np.ndarray]
    head: Mapping[str, np.ndarray] = field(default_factory=dict)
    head_config: dict[str, Any] = field(default_factory=dict)
    sidecar: dict[str, Any] = field(default_factory=dict)
    stored: Mapping[str, str] = field(default_factory=dict)
    interface: dict[str, Any] | None = None


def site_features(checkpoint: Checkpoint, info: ModelInfo, site: Site) -> Features:
    """Returns the sizes at a site. Raises InputError that names the checkpoint if the model has no such site."""
    try:
        return info.features(site)
    except InputError as error:
        raise InputError(f"{checkpoint.folder}: {error}") from None
