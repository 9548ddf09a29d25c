"""Wrong bundles, each wrong in one way, made from a right one without tracing again.

A mutant changes the tensors of an adapter file, or the graph. The digests in the manifest are updated, so that only the
numbers can show the mistake.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from safetensors.numpy import load_file

from adapter_export.bundle.adapter_file import read_adapter_file, write_adapter_file
from adapter_export.bundle.add import add_adapter
from adapter_export.bundle.graphs import MODEL
from adapter_export.bundle.manifest import read_manifest
from adapter_export.checkpoints.folder import load_adapter, save_adapter
from adapter_export.export.function import Function
from adapter_export.methods.contract import SiteAdapter
from adapter_export.naming import DOMAIN
from adapter_export.reading.hashes import sha256
from tests.bundles import Exported

Tensors = dict[str, np.ndarray]
ChangeTensors = Callable[[Tensors], Tensors]
# Called as (graph, tensors of the base model by their names in its file).
ChangeGraph = Callable[[ir.Model, Tensors], None]


@dataclass(frozen=True)
class Mutant:
    """A mistake in a bundle.

    Attributes:
        name: What is wrong.
        bundle: Name of the fixture with the right bundle.
        adapter: The adapter of it that is judged.
        file: The graph that is changed.
        site: Where the first wrong value is: the site of an adapter, or a module. None if `planted_sites` tells it.
    """

    name: str
    bundle: str
    adapter: str
    tensors: ChangeTensors | None = None
    graph: ChangeGraph | None = None
    file: str = MODEL
    site: str | None = None


def make(mutant: Mutant, exported: Exported, target: Path) -> Path:
    """Makes a mutated copy of the bundle at `target`, with a single adapter."""
    shutil.copytree(exported.bundle, target)
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["adapters"] = [info for info in manifest["adapters"] if info["name"] == mutant.adapter]
    (info,) = manifest["adapters"]
    for name in [name for name in manifest["files"] if name.startswith("adapters/") and name != info["file"]]:
        del manifest["files"][name]
    if mutant.tensors:
        path = target / info["file"]
        before = dict(read_adapter_file(path))
        after = mutant.tensors(before)
        assert not same(before, after), f"{mutant.name}: changes nothing"
        write_adapter_file(path, after, manifest["base"]["sha256"])
        info["sha256"] = manifest["files"][info["file"]] = sha256(path)
    if mutant.graph:
        path = target / mutant.file
        model = ir.load(path)
        mutant.graph(model, load_file(exported.base / "model.safetensors"))
        ir.save(model, path)
        onnx.checker.check_model(str(path))
        manifest["files"][mutant.file] = sha256(path)
    (target / "manifest.json").write_text(json.dumps(manifest))
    return target


def same(a: Tensors, b: Tensors) -> bool:
    return set(a) == set(b) and all(np.array_equal(a[name], b[name]) for name in a)


def with_faint(size: float, exported: Exported, name: str, folder: Path) -> Exported:
    """Makes a bundle with one adapter `faint`: the IA3 adapter `name`, with 1 + size * vector for each vector."""
    info = read_manifest(exported.bundle).base
    adapter = load_adapter(exported.adapters[name], info)
    sites = {
        site: SiteAdapter(
            site_adapter.operator, {key: np.float32(1 + size * tensor) for key, tensor in site_adapter.tensors.items()}
        )
        for site, site_adapter in adapter.sites.items()
    }
    checkpoint = folder / "faint"
    checkpoint.mkdir()
    save_adapter(checkpoint, replace(adapter, sites=sites), info, "base")
    copied = Path(shutil.copytree(exported.bundle, folder / "copied"))
    add_adapter(copied, {"faint": checkpoint})
    bundle = make(Mutant("nothing", "", "faint"), replace(exported, bundle=copied), folder / "bundle")
    return Exported(bundle, exported.base, {"faint": checkpoint})


# Adapter tensors


def without(*parts: str) -> ChangeTensors:
    """Removes the tensors whose names contain all of `parts`, so that their defaults, the identity, are used."""
    return lambda tensors: {n: t for n, t in tensors.items() if not all(part in n for part in parts)}


def swapped(first: str, second: str) -> ChangeTensors:
    """Exchanges the tensors of `first` and of `second`."""

    def other(name: str) -> str:
        return name.replace(first, second) if first in name else name.replace(second, first)

    return lambda tensors: {name: tensors[other(name)] for name in tensors}


def changed(part: str, change: Callable[[np.ndarray], np.ndarray]) -> ChangeTensors:
    """Applies `change` to every tensor whose name contains `part`."""
    return lambda tensors: {
        name: np.ascontiguousarray(change(tensor), tensor.dtype) if part in name else tensor
        for name, tensor in tensors.items()
    }


def of_another(part: str, seed: int = 0) -> ChangeTensors:
    """Replaces every tensor whose name contains `part` by random values, like those of another adapter."""
    rng = np.random.default_rng(seed)
    return changed(part, lambda tensor: rng.permutation(tensor.reshape(-1)).reshape(tensor.shape))


def fewer_ranks(tensors: Tensors) -> Tensors:
    """Removes the last rank of every pair of thin matrices, A (in, rank) and B (rank, out)."""
    kept = {".lora.a": lambda a: a[:, :-1], ".lora.b": lambda b: b[:-1]}
    return {
        name: np.ascontiguousarray(next((cut(tensor) for part, cut in kept.items() if name.endswith(part)), tensor))
        for name, tensor in tensors.items()
    }


# Graphs, changed by texts in ONNX's text format


def function(op_type: str, old: str, new: str) -> ChangeGraph:
    """Replaces `old` by `new` in the text of a function's body."""

    def apply(model: ir.Model, _: Tensors) -> None:
        text = onnx.printer.to_text(ir.to_proto(model.functions[DOMAIN, op_type, ""]))
        assert old in text, text
        _define(model, op_type, text.replace(old, new))

    return apply


def input_through(name: str, text: str) -> ChangeGraph:
    """Makes every node that reads the graph input `name` read `out` of `text` instead; the input is x in `text`."""

    def apply(model: ir.Model, _: Tensors) -> None:
        _define(model, "Mutant", Function("Mutant", ("x",), text).text(model.graph.opset_imports[""]))
        value = next(value for value in model.graph.inputs if value.name == name)
        node = ir.node("Mutant", [value], domain=DOMAIN)
        for reader, index in list(value.uses()):
            if reader is not node:
                reader.replace_input_with(index, node.outputs[0])
        model.graph.insert_before(model.graph[0], node)

    return apply


def output_through(text: str) -> ChangeGraph:
    """Replaces the graph output by `out` of `text`; the original output is x in `text`."""

    def apply(model: ir.Model, _: Tensors) -> None:
        _define(model, "Mutant", Function("Mutant", ("x",), text).text(model.graph.opset_imports[""]))
        value = model.graph.outputs[0]
        node = ir.node("Mutant", [value], domain=DOMAIN)
        new = node.outputs[0]
        new.type, new.shape, new.name, value.name = value.type, value.shape, value.name, f"{value.name}.inner"
        model.graph.append(node)
        model.graph.outputs[0] = new

    return apply


def dropped(part: str) -> ChangeGraph:
    """Removes IA3 at the sites whose names contain `part`."""

    def apply(model: ir.Model, _: Tensors) -> None:
        nodes = [node for node in model.graph if node.op_type == "IA3" and part in (node.name or "")]
        assert nodes, [node.name for node in model.graph if node.domain == DOMAIN]
        for node in nodes:
            for reader, index in list(node.outputs[0].uses()):
                reader.replace_input_with(index, node.inputs[0])

    return apply


def initializer(name: str, change: Callable[[np.ndarray], np.ndarray]) -> ChangeGraph:
    """Applies `change` to one initializer."""
    return lambda model, _: _put(model, name, change)


def together(*changes: ChangeGraph) -> ChangeGraph:
    """Applies all of `changes`."""

    def apply(model: ir.Model, base: Tensors) -> None:
        for change in changes:
            change(model, base)

    return apply


def bias_unscaled(module: str) -> ChangeGraph:
    """Replaces the bias of a merged linear layer by that of the base model."""
    return lambda model, base: _put(model, f"bert.{module}.bias", lambda _: base[f"{module}.bias"])


def merged_again(module: str) -> ChangeGraph:
    """Scales weight and bias of a merged linear layer a second time. The vector is computed from the biases."""

    def apply(model: ir.Model, base: Tensors) -> None:
        bias = model.graph.initializers[f"bert.{module}.bias"]
        (addition,) = bias.consumers()
        product = next(value.producer() for value in addition.inputs if value is not bias and value is not None)
        assert product is not None
        weight = product.inputs[1]
        assert weight is not None
        assert weight.name is not None
        assert bias.const_value is not None
        vector = bias.const_value.numpy() / base[f"{module}.bias"]
        _put(model, weight.name, lambda array: array * vector)
        _put(model, f"bert.{module}.bias", lambda array: array * vector)

    return apply


def _put(model: ir.Model, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    value = model.graph.initializers[name]
    assert value.const_value is not None
    old = value.const_value.numpy()
    new = np.ascontiguousarray(change(old), old.dtype)
    assert not np.array_equal(old, new)
    value.const_value = ir.tensor(new, name=name)


def _define(model: ir.Model, op_type: str, text: str) -> None:
    model.functions[DOMAIN, op_type, ""] = ir.serde.deserialize_function(onnx.parser.parse_function(text))
    model.graph.opset_imports.setdefault(DOMAIN, 1)
