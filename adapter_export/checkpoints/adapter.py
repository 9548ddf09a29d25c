"""The in-memory form of an adapter, the same whatever format it came from."""

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
    """One linear layer of a task head: weight (n, d), bias (n,) or None; as `torch.nn.Linear` keeps them."""

    weight: np.ndarray
    bias: np.ndarray | None


# Some checkpoints of language models repeat the base model's own output layer, which has this name here. It is no task
# head: it is accepted when equal to the model's, and swapped never.
LM_HEAD = "lm_head"
# What the output layer of language models is called.
OUTPUT_LAYERS = (LM_HEAD, "embed_out", "proj_out")


@dataclass(frozen=True)
class Adapter:
    """One trained set of tensors for a base model.

    sites: operator and tensors of each site, in canonical names. head: layers by module path in the task model
    (`classifier`, `classifier.out_proj`), empty without a task head. labels: class names in the head's order, or None
    where the checkpoint has none. task: as in `tasks.TASKS`, or None where the checkpoint does not say.
    base_sha256: digest of the base model's weights it was trained on, where the checkpoint recorded it.
    stored: the half-precision dtypes that tensors had in their checkpoint (in memory they are float32, which holds the
    same values), by `<module path>.<tensor>`, so that the checkpoint can be written again as it was.
    source: `org/name@commit` of a checkpoint that came from the Hugging Face hub, None of any other.
    source_sha256: of the checkpoint it was read from, see `checkpoints.weights.checkpoint_sha256`; None of one made in
    memory.
    notes: what the user should know of the checkpoint, a sentence each.
    labels_given: the labels are the user's, not the checkpoint's. repeated: weights of the base model that the
    checkpoint holds too, by module path in it; they must equal the model's (see `injection.complete_head`).
    pad_token_id: the token that training padded with, where it chose one for a base model that names none.
    problem_type: what the task head's numbers mean, by transformers' names: `single_label_classification` (one of
    several classes), `multi_label_classification` (each class for itself) or `regression` (values); None where the
    checkpoint does not say.
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

    @property
    def num_labels(self) -> int | None:
        """Size of the task head's last layer, or None without one."""
        layers = [layer for name, layer in self.head.items() if name != LM_HEAD]
        return int(layers[-1].weight.shape[0]) if layers else None

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels, or transformers' placeholders (`LABEL_0`, ...) where the checkpoint has none."""
        return self.labels or tuple(f"LABEL_{i}" for i in range(self.num_labels or 0))

    @property
    def parameters(self) -> int:
        """Number of trained values, head included."""
        body = sum(tensor.size for site_adapter in self.sites.values() for tensor in site_adapter.tensors.values())
        head = sum(layer.weight.size + (0 if layer.bias is None else layer.bias.size) for layer in self.head.values())
        return int(body + head)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder as read, before its names are resolved against a base model.

    config: the adapter's config file. tensors: the adapter's tensors by the checkpoint's own names. head: likewise for
    a head kept in a file of its own. sidecar: what this project adds beside the format's own files (labels, base hash).
    stored: see `Adapter`, by the checkpoint's own names. interface: AdapterHub's description of the model, where there
    is one (see `hub_interface`).
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
    """Sizes at a site that a checkpoint names; raises InputError, naming the checkpoint, when there is no such."""
    try:
        return info.features(site)
    except InputError as error:
        raise InputError(f"{checkpoint.folder}: {error}") from None
