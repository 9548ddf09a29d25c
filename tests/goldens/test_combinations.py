"""Every setting of AdapterHub's checkpoints against the library itself, on tiny models of every kind it treats apart.

`combinations/<model_type>.npz` (see README.md): a base model, and per case the checkpoint and what the library
computes.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from adapter_export.checkpoints.adapter import Adapter
from adapter_export.checkpoints.folder import load_adapter, save_adapter
from adapter_export.errors import InputError
from adapter_export.models.base_model import BaseModel, load_base
from adapter_export.models.injection import Injection
from tests.goldens.packed import unpacked

FILES = sorted((Path(__file__).parent / "combinations").glob("*.npz"))
# Largest difference allowed, of outputs of order 1; the stored ones are rounded to float32.
TOLERANCE = 5e-6
# Least effect of an adapter.
EFFECT = 0.05
# What the library computes and we refuse, with a piece of the message.
_NO_RESIDUAL = "the residual of 'h.0.output_adapters' is the input of no module"
REFUSED = {
    ("bert", "act-prelu"): "field 'non_linearity': activation 'prelu'",  # it has a parameter of its own
    **{("gptj", f"flags{number}"): _NO_RESIDUAL for number in (2, 3, 5, 6, 7, 8, 9, 10, 12, 13)},
}


@dataclass(frozen=True)
class Golden:
    """cases: name -> its config, and "tensors" with what the library computed, or "error" where it failed, or
    "refused" in place of the config where we do not support the method at all."""

    base_config: dict[str, Any]
    arrays: dict[str, np.ndarray]
    cases: dict[str, dict[str, Any]]

    def named(self, prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): a for name, a in self.arrays.items() if name.startswith(prefix)}

    def inputs(self) -> dict[str, Any]:
        import torch

        arrays = self.named("input.")
        return {
            name: torch.from_numpy(a if name == "pixel_values" else a.astype(np.int64)) for name, a in arrays.items()
        }

    def checkpoint(self, case: str, folder: Path) -> Path:
        """The case's files, as the library saved them."""
        about, names = self.cases[case], list(self.arrays)
        tensors = {
            names[i].removeprefix("tensor.").split("|")[0]: self.arrays[names[i]] for i in about.get("tensors", ())
        }
        (folder / "adapter_config.json").write_text(json.dumps(about.get("config") or about["refused"]))
        save_file(tensors or {"x.adapters.t.y": np.ones(1, np.float32)}, folder / "adapter.safetensors")
        return folder


@functools.cache
def golden(model_type: str) -> Golden:
    about, arrays = unpacked(FILES[0].with_name(f"{model_type}.npz"))
    return Golden(about["config"], arrays, about["cases"])


@pytest.fixture(scope="module")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Called as (model_type) -> its base model in float64."""
    import torch

    @functools.cache
    def make(model_type: str) -> BaseModel:
        folder = tmp_path_factory.mktemp(model_type)
        (folder / "config.json").write_text(json.dumps(golden(model_type).base_config))
        save_file(golden(model_type).named("base."), folder / "model.safetensors", metadata={"format": "pt"})
        return load_base(folder, "features", dtype=torch.float64)

    return make


def difference(found: np.ndarray, expected: np.ndarray, about: Golden) -> np.ndarray:
    """By position; padded positions mean nothing."""
    difference = np.abs(found - expected)
    mask = about.named("input.").get("attention_mask")
    return difference if mask is None or mask.shape != difference.shape[:2] else difference[mask.astype(bool)]


def outputs(base: BaseModel, adapter: Adapter, about: Golden) -> np.ndarray:
    import torch

    injection = Injection(base.module, adapter.sites)
    try:
        with torch.no_grad():
            result: np.ndarray = base.module(**about.inputs()).last_hidden_state.numpy()
    finally:
        injection.remove()
    return result


ALL = [(file.stem, case) for file in FILES for case in golden(file.stem).cases]


@pytest.mark.parametrize(("model_type", "case"), ALL, ids=lambda value: value)
def test_what_the_library_computes_we_compute(model_type: str, case: str, base_of: Any, tmp_path: Path) -> None:
    about, base = golden(model_type), base_of(model_type)
    folder = about.checkpoint(case, tmp_path)
    if "tensors" not in about.cases[case] or (model_type, case) in REFUSED:
        with pytest.raises(InputError, match=REFUSED.get((model_type, case), r"adapter_config\.json: field '\w+': ")):
            load_adapter(folder, base.info)
        return
    adapter = load_adapter(folder, base.info)
    on, off = about.arrays[f"on.{case}"], about.arrays["off"]
    assert difference(on, off, about).max() > EFFECT
    assert difference(outputs(base, adapter, about), on, about).max() < TOLERANCE

    written = tmp_path / "written"
    written.mkdir()
    save_adapter(written, adapter, base.info, "")
    again = load_adapter(written, base.info)
    assert set(again.sites) == set(adapter.sites)
    for site, site_adapter in adapter.sites.items():
        assert again.sites[site].operator == site_adapter.operator
        for name, tensor in site_adapter.tensors.items():
            np.testing.assert_array_equal(again.sites[site].tensors[name], tensor)
    assert adapter.notes == ()
    if adapter.method == "bottleneck":
        assert "modules" not in json.loads((written / "adapter_export.json").read_text()), "the library has settings"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_without_an_adapter_it_is_the_base_model(file: Path, base_of: Any) -> None:
    import torch

    about, base = golden(file.stem), base_of(file.stem)
    with torch.no_grad():
        off = base.module(**about.inputs()).last_hidden_state.numpy()
    assert difference(off, about.arrays["off"], about).max() < TOLERANCE
