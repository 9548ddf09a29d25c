"""The model as boxes, from its inputs to its outputs, with the places where adapters act."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from adapter_export.bundle.manifest import Manifest, SiteInfo, TensorInfo
from adapter_export.pages.parts import Block, Drawing, Paragraph, Part
from adapter_export.parity.page.texts import plural
from adapter_export.parity.whole_model import whole_model_inputs, whole_model_outputs

_LAYER = re.compile(r"(?P<stack>.*?)\.(?P<number>[0-9]{1,9})\.(?P<module>.+)")
_PORTS = {
    "input": "changes what goes in",
    "output": "changes what comes out",
    "norm": "changes what goes in, and reads what comes out",
    "branch": "adds a branch around it",
    "replace": "is replaced by the adapter's own head",
}


@dataclass
class _Layer:
    """A layer of a stack, or a module outside of every stack (`number` is then None), with its sites in words."""

    stack: str
    number: int | None
    sites: dict[str, None]


def model_parts(manifest: Manifest | None) -> Iterator[Part]:
    """Yields the drawing, and what it leaves out."""
    if manifest is None:
        return
    yield Paragraph(
        f"{plural(len(manifest.sites), 'site')} by the manifest: places of the base model where an adapter acts. Parts "
        "of the model without a site are not drawn, and neither is a KV cache. Equal layers are one box."
    )
    methods: dict[str, list[str]] = {}
    for info in manifest.adapters:
        methods.setdefault(info.method, []).append(info.name)
    base = manifest.base
    blocks = [
        Block("Inputs", inside=[_tensor(name, info) for name, info in whole_model_inputs(manifest).items()]),
        Block(f"Base model: {base.architecture}", f"{base.model_type}, {base.hidden_size} features, frozen"),
        *_layers(manifest.sites),
        Block("Outputs", inside=[_tensor(name, info) for name, info in whole_model_outputs(manifest).items()]),
    ]
    yield Drawing("The model from its inputs to its outputs", blocks)
    if methods:
        yield Paragraph(
            "Adapters by method: " + "; ".join(f"{key}: {', '.join(names)}" for key, names in methods.items())
        )


def _layers(sites: Sequence[SiteInfo]) -> Iterator[Block]:
    """Yields a box for each run of layers that have the same sites."""
    layers: list[_Layer] = []
    for site in sites:
        match = _LAYER.fullmatch(site.module)
        stack, number, module = (
            (match["stack"], int(match["number"]), match["module"]) if match else (site.module, None, "")
        )
        found = next((item for item in layers if (item.stack, item.number) == (stack, number)), None)
        if found is None:
            found = _Layer(stack, number, {})
            layers.append(found)
        method = "task head" if site.method is None else site.method
        found.sites[f"{module or site.module}: {method} {_PORTS[site.port]}"] = None
    groups: list[list[_Layer]] = []
    for layer in layers:
        last = groups[-1][-1] if groups else None
        follows = last is not None and None not in (last.number, layer.number) and last.stack == layer.stack
        if last is not None and follows and last.sites.keys() == layer.sites.keys():
            groups[-1].append(layer)
        else:
            groups.append([layer])
    for group in groups:
        first, last = group[0], group[-1]
        if first.number is None:
            yield Block(first.stack, inside=list(first.sites))
        elif first is last:
            yield Block(f"{first.stack}.{first.number}", inside=list(first.sites))
        else:
            yield Block(
                f"{first.stack}.{first.number} to {last.number}", f"{len(group)} layers with these sites each",
                list(first.sites),
            )  # fmt: skip


def _tensor(name: str, info: TensorInfo) -> str:
    return f"{name}: {info.dtype} [{', '.join(map(str, info.shape))}]"
