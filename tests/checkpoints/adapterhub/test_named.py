"""Configurations by name: `"config": "houlsby"`, what the library makes of it and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapter_export.checkpoints.adapterhub.named import NAMED, expand
from adapter_export.checkpoints.folder import load_adapter
from adapter_export.errors import InputError
from adapter_export.inspection.folders import describe_adapter
from adapter_export.modelinfo import ModelInfo

Good = Callable[[str], Path]
Refused = Callable[..., str]
# What `AdapterConfig.load` of adapters 1.3.0 gives, its fields that are not the defaults.
EXPECTED = json.loads(Path(__file__).with_name("named.json").read_text())


@pytest.mark.parametrize("text", EXPECTED)
def test_a_name_stands_for_what_the_library_makes_of_it(text: str) -> None:
    """A name in place of the settings was taken for no adapter at all."""
    assert expand(text, Path("x")) == EXPECTED[text]


def test_every_name_of_the_library_is_known() -> None:
    assert {text for text in EXPECTED if "[" not in text and "|" not in text} <= set(NAMED)


def rename(folder: Path, config: Any) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "config": config}))
    return folder


def test_an_adapter_with_a_name_for_its_settings(info: ModelInfo, good: Good) -> None:
    folder = good("adapterhub")
    expected = load_adapter(folder, info)
    found = load_adapter(rename(folder, "houlsby"), info)
    assert {site: site_adapter.operator for site, site_adapter in found.sites.items()} == {
        site: site_adapter.operator for site, site_adapter in expected.sites.items()
    }
    assert describe_adapter(folder).method == "bottleneck"
    assert describe_adapter(folder).settings["non_linearity"] == "swish"
    # The names of activations in old files do not concern it.
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "version"}))
    rename(folder, "houlsby[non_linearity='gelu']")
    assert {site_adapter.operator.op_name for site_adapter in load_adapter(folder, info).sites.values()} == {
        "bottleneck_gelu"
    }


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("pfeiffer", "no such place for this config"),
        ("seq_bn_inv", "field 'inv_adapter': 'nice' is not supported: an invertible adapter acts on the embeddings"),
        ("lora", "not a tensor of LoRA"),
        ("lora[r=0]", "field 'r': expected 1 to 2,147,483,648, found 0 (in config 'lora[r=0]')"),
        ("dora", "field 'use_dora': True is not supported: DoRA divides by norms"),
        ("vera", "field 'vera_d': 0.1 is not supported: VeRA multiplies random matrices"),
        ("prefix_tuning", "field 'architecture': 'prefix_tuning' is not supported"),
        ("mam", "field 'configs': a union with 'prefix_tuning' is not supported"),
        ("unipelt", "field 'configs': a union with 'prefix_tuning' is not supported"),
        ("mtl_lora", "field 'architecture': 'mtl_lora' is not supported"),
        ("loreft", "field 'architecture': 'reft' is not supported"),
        ("houlsby_", "field 'config': 'houlsby_' is no configuration of the library, expected one of compacter"),
        ("/etc/passwd", "field 'config': '/etc/passwd' is no configuration of the library"),
        ("houlsby[", "field 'config': 'houlsby[' is no configuration of the library"),
        ("houlsby[new_idea=2]", "field 'config': 'houlsby' has no setting 'new_idea'"),
        ("houlsby[reduction_factor]", "field 'config': expected settings as name=value, found 'reduction_factor'"),
        ("houlsby[reduction_factor=open('x')]", "field 'config': expected settings as name=value"),
        ("houlsby[reduction_factor=" + "(" * 900 + "]", "field 'config': expected settings as name=value"),
        ("houlsby" * 1000, "field 'config': expected the name of a configuration"),
        ("houlsby[reduction_factor='x']", "field 'reduction_factor': expected"),
    ],
)
def test_what_a_name_cannot_be(config: str, message: str, good: Good, refused: Refused) -> None:
    assert message in refused(rename(good("adapterhub"), config))


@pytest.mark.parametrize("name", ["MH_Adapter", "Output_Adapter", "LN_after"])
def test_settings_from_before_version_1_are_refused_by_name(name: str, good: Good, refused: Refused) -> None:
    """The message named tensors at a place that the settings, not read, did not have."""
    old = {name: True, "non_linearity": "gelu", "reduction_factor": 16, "attention_type": "sent-lvl-dynamic"}
    message = refused(rename(good("adapterhub"), old))
    assert f"field '{name}': a configuration from before version 1.0 of the library" in message
    del old[name]
    assert "field 'mh_adapter' is missing" in refused(rename(good("adapterhub"), old))


def test_expansion_takes_no_time_on_odd_texts() -> None:
    for text in ("[" * 900, "houlsby[" + "{" * 900 + "]", "|" * 900, "houlsby[" + "a=" * 400 + "]"):
        with pytest.raises(InputError):
            expand(text, Path("x"))
