"""Where wrong bundles depart, by what was once named wrongly, and the errors at all sites."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

from adapter_export.bundle.manifest import SiteRole, read_manifest
from adapter_export.sites import Port, Site
from tests.bundles import Exported
from tests.parity.localizing.later_mutants import weight_of
from tests.parity.localizing.located import Located
from tests.parity.mutants import Mutant, Tensors, without


@pytest.mark.parametrize("layer", [0, 1])
def test_an_input_that_is_not_merged(layer: int, merged_bundle: Exported, tmp_path: Path) -> None:
    """A merged layer reads what is not scaled yet, because its weight scales it: what it reads is no place."""
    module = f"encoder.layer.{layer}.output.dense"

    def unmerged(model: ir.Model, base: Tensors) -> None:
        weight_of(module, lambda array: base[f"{module}.weight"].T.reshape(array.shape))(model, base)

    mutant = Mutant("an input that is not merged", "merged_bundle", "ia3_three", graph=unmerged)
    departure = Located().departure(mutant, merged_bundle, tmp_path / "bundle")
    assert departure is not None
    assert (departure.site, departure.part, departure.cause.name) == (module, "output", "adapter absent")
    assert departure.node is not None
    assert departure.node.startswith("MatMul")
    agree = {item.site: item.error <= item.limit for item in departure.sites}
    layers = [f"encoder.layer.{number}" for number in (0, 1)]
    assert {*agree} == {
        *(f"{one}.{name}" for one in layers for name in ("attention.self.key", "attention.self.value", "output.dense")),
        "logits",
    }
    assert next(name for name, agrees in agree.items() if not agrees) == module
    assert {item.run for item in departure.sites} == {"with the adapter"}


def test_errors_by_site(swappable_bundle: Exported, tmp_path: Path) -> None:
    """The sites are those of the graph: all that any of its adapters uses."""
    wrong = "encoder.layer.0.output.dense.input"
    mutant = Mutant("dropped", "swappable_bundle", "ia3_three", without(f"{wrong}.ia3."))
    departure = Located().departure(mutant, swappable_bundle, tmp_path / "bundle")
    assert departure is not None
    manifest = read_manifest(swappable_bundle.bundle)
    sites = {Site(info.module, Port(info.port)).name for info in manifest.sites if info.role is SiteRole.ADAPTER}
    assert {item.site for item in departure.sites} == {*sites, "logits"}
    agree = [item.site for item in departure.sites if item.error <= item.limit]
    assert {*agree} == {
        *(f"encoder.layer.0.attention.{name}" for name in ("self.key", "self.value", "output.dense")),
    }
    (found,) = (item for item in departure.sites if item.site == wrong)
    assert (found.error, found.limit) == (departure.error, departure.limit)
