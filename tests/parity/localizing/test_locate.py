"""Wrong bundles of which the search once named another place than the wrong one."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

from tests.bundles import Exported
from tests.parity.localizing.later_mutants import weight_of
from tests.parity.localizing.located import Located
from tests.parity.mutants import Mutant, Tensors


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
