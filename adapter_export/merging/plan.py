"""Plans what to do with each tensor of a model folder. All of it is checked before a byte is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adapter_export.architectures.layers import SHARED
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.safetensors_header import Entry, Header, arranged, encode_header
from adapter_export.errors import CannotMerge
from adapter_export.merging.heads import HeadChange
from adapter_export.merging.model_folder import ModelFolder
from adapter_export.merging.piecewise import MergeRule, StoredLayer, TensorChange, changes_bias
from adapter_export.merging.rounding import STORED
from adapter_export.reading.files import open_file
from adapter_export.sites import Port, Site


@dataclass(frozen=True)
class Part:
    """One tensor of an output file. It is new, or comes from the input file, unchanged or with a change.

    Attributes:
        name: Its name.
        entry: Where it lies in the output file.
        source: Where it lies in the input file; None for a new tensor.
        change: The change to apply, or None.
        content: Values of a new tensor, or None.
    """

    name: str
    entry: Entry
    source: Entry | None = None
    change: TensorChange | None = None
    content: np.ndarray | None = None


@dataclass(frozen=True)
class FilePlan:
    """One output file.

    Attributes:
        name: Its name.
        source: Header of the input file.
        header: All bytes before the data.
        aligned: Whether the header is that of the input file, so that each tensor keeps its position.
        parts: The tensors, in the order of their bytes.
    """

    name: str
    source: Header
    header: bytes
    parts: tuple[Part, ...]
    aligned: bool

    @property
    def size(self) -> int:
        return len(self.header) + sum(part.entry.size for part in self.parts)


def plan_changes(model: ModelFolder, adapters: Sequence[Adapter]) -> dict[str, TensorChange]:
    """Returns the change of each tensor that the adapters touch, by its name on disk. Adapters are applied in their
    order.

    Raises:
        CannotMerge: A method is not linear, a module is no linear layer, or weights are quantized or tied.
    """
    info = model.info(None)
    by_module: dict[str, list[MergeRule]] = {}
    sites: dict[str, Site] = {}
    for adapter in adapters:
        for site, site_adapter in adapter.sites.items():
            if (reason := site_adapter.operator.unmergeable(site.port)) is not None:
                raise CannotMerge(f"method {adapter.method!r}: site {site.name}: {reason}")
            branched = site.module in info.embeddings and site.port is Port.BRANCH
            if site.module not in info.inputs and not branched:
                raise CannotMerge(f"site {site.name}: {site.module} is no linear layer or convolution to fold into")
            if site.module not in model.modules:
                raise CannotMerge(f"site {site.name}: {_tied(model.modules[SHARED])}")
            by_module.setdefault(site.module, []).append(MergeRule(site.port, site_adapter))
            sites[site.module] = site
    changes: dict[str, TensorChange] = {}
    for module, rules in by_module.items():
        on_disk = model.modules[module]
        transposed = module in info.embeddings or (model.transposed and module not in info.convolutions)
        layer = StoredLayer(model.weight_shape(on_disk), transposed)
        weight, bias = f"{on_disk}.weight", f"{on_disk}.bias"
        changes[weight] = _change(model, sites[module], weight, layer, rules)
        try:
            touching = [rule for rule in rules if changes_bias(rule, layer, bias in model.weights.where)]
        except CannotMerge as error:
            raise CannotMerge(f"site {sites[module].name}: {error}") from None
        if touching:
            changes[bias] = _change(model, sites[module], bias, layer, touching, bias=True)
    return changes


def plan_files(model: ModelFolder, changes: Mapping[str, TensorChange], head: HeadChange | None) -> list[FilePlan]:
    """Returns the weight files of the output. They have the names and contents of the input's; a new head goes into
    the last.
    """
    headers = model.weights.files
    return [
        _aligned(name, header, changes)
        if head is None
        else _arranged(name, header, changes, head, head.added if number == len(headers) else {})
        for number, (name, header) in enumerate(headers.items(), start=1)
    ]


def _aligned(name: str, header: Header, changes: Mapping[str, TensorChange]) -> FilePlan:
    with open_file(header.path) as file:
        text = file.read(header.start)
    parts = tuple(Part(tensor, entry, entry, changes.get(tensor)) for tensor, entry in header.tensors.items())
    return FilePlan(name, header, text, parts, aligned=True)


def _arranged(
    name: str, header: Header, changes: Mapping[str, TensorChange], head: HeadChange, added: Mapping[str, np.ndarray]
) -> FilePlan:
    kept = {tensor: entry for tensor, entry in header.tensors.items() if tensor not in head.dropped}
    entries = arranged(
        [
            *((head.prefix + tensor, entry.dtype, entry.shape, entry.size) for tensor, entry in kept.items()),
            *((tensor, head.dtype, value.shape, value.nbytes) for tensor, value in added.items()),
        ]
    )
    parts = [
        *(
            Part(head.prefix + tensor, entries[head.prefix + tensor], entry, changes.get(tensor))
            for tensor, entry in kept.items()
        ),
        *(Part(tensor, entries[tensor], content=value) for tensor, value in added.items()),
    ]
    parts.sort(key=lambda part: part.entry.begin)
    return FilePlan(name, header, encode_header(entries, header.metadata), tuple(parts), aligned=False)


def _change(
    model: ModelFolder, site: Site, name: str, layer: StoredLayer, rules: Sequence[MergeRule], bias: bool = False
) -> TensorChange:
    aliases = model.weights.aliases
    if others := [
        *([aliases[name]] if name in aliases else []),
        *(other for other in aliases if aliases[other] == name),
    ]:
        raise CannotMerge(f"site {site.name}: {name}: {_tied(others[0])}")
    entry = model.weights.entry(name)
    if entry.dtype not in STORED:
        raise CannotMerge(f"site {site.name}: {name} is quantized ({entry.dtype}); merge into the original weights")
    return TensorChange(name, entry.dtype, layer, tuple(rules), bias)


def _tied(other: str) -> str:
    return (
        f"its weight is tied to {other}, which must not change; save the model with a weight of its own for each, "
        "or export with --mode swappable"
    )
