"""Configurations that AdapterHub's library has names for. A checkpoint may have the name in place of the settings.

`houlsby`, `seq_bn[reduction_factor=8]`, `seq_bn|par_bn`: a name, a name with settings that differ, a union of several.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapter_export.checkpoints.adapterhub.config import DEFAULTS
from adapter_export.checkpoints.adapterhub.lora_config import SETTINGS as LORA_SETTINGS
from adapter_export.errors import InputError
from adapter_export.reading.shown import shortened

_SEQ: Mapping[str, Any] = {
    **DEFAULTS,
    "architecture": None,
    "mh_adapter": False,
    "output_adapter": True,
    "non_linearity": "relu",
    "original_ln_before": True,
    "reduction_factor": 16,
}
_DOUBLE: Mapping[str, Any] = {**_SEQ, "mh_adapter": True, "non_linearity": "swish", "original_ln_before": False}
_PARALLEL: Mapping[str, Any] = {
    **_SEQ,
    "original_ln_before": False,
    "reduction_factor": 2,
    "init_weights": "mam_adapter",
    "is_parallel": True,
    "scaling": 4.0,
}
_SCALED: Mapping[str, Any] = {**_PARALLEL, "scaling": "learned"}
_INVERTIBLE: Mapping[str, Any] = {"inv_adapter": "nice", "inv_adapter_reduction_factor": 2}
_SEQ_INVERTIBLE: Mapping[str, Any] = {**_SEQ, **_INVERTIBLE}
_DOUBLE_INVERTIBLE: Mapping[str, Any] = {**_DOUBLE, **_INVERTIBLE}
_COMPACTER: Mapping[str, Any] = {"phm_layer": True, "reduction_factor": 32, "non_linearity": "gelu"}
_LORA: Mapping[str, Any] = {
    "architecture": "lora",
    "alpha": 8,
    "attn_matrices": ["q", "v"],
    "composition_mode": "add",
    "dropout": 0.0,
    "dtype": None,
    "init_weights": "lora",
    "init_weights_seed": None,
    "intermediate_lora": False,
    "leave_out": [],
    "output_lora": False,
    "r": 8,
    "selfattn_lora": True,
    "use_dora": False,
    "use_gating": False,
    "vera_b": None,
    "vera_d": None,
}
_IA3: Mapping[str, Any] = {
    **_LORA,
    "alpha": 1,
    "attn_matrices": ["k", "v"],
    "composition_mode": "scale",
    "init_weights": "ia3",
    "intermediate_lora": True,
    "r": 1,
}
_VERA: Mapping[str, Any] = {"vera_d": 0.1, "vera_b": 0.0, "init_weights": "vera"}
_PREFIX: Mapping[str, Any] = {"architecture": "prefix_tuning"}
_REFT: Mapping[str, Any] = {"architecture": "reft"}
_GATED: Mapping[str, Any] = {"use_gating": True}

# Name -> settings. For methods that are not supported, only the settings that identify them.
NAMED: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(("pfeiffer", "seq_bn"), _SEQ),
    **dict.fromkeys(("houlsby", "double_seq_bn"), _DOUBLE),
    **dict.fromkeys(("parallel", "par_bn"), _PARALLEL),
    **dict.fromkeys(("scaled_parallel", "scaled_par_bn"), _SCALED),
    **dict.fromkeys(("pfeiffer+inv", "seq_bn_inv"), _SEQ_INVERTIBLE),
    **dict.fromkeys(("houlsby+inv", "double_seq_bn_inv"), _DOUBLE_INVERTIBLE),
    "compacter": {**_DOUBLE, **_COMPACTER},
    "compacter++": {**_SEQ, **_COMPACTER},
    "ia3": _IA3,
    "lora": _LORA,
    "dora": {**_LORA, "use_dora": True},
    "vera": {**_LORA, **_VERA},
    "dvora": {**_LORA, **_VERA, "use_dora": True},
    "mtl_lora": {**_LORA, "architecture": "mtl_lora"},
    **dict.fromkeys(("prefix_tuning", "prefix_tuning_flat"), _PREFIX),
    "prompt_tuning": {"architecture": "prompt_tuning"},
    **dict.fromkeys(("loreft", "noreft", "direft"), _REFT),
    "mam": {"architecture": "union", "configs": [_PREFIX, _PARALLEL]},
    "unipelt": {
        "architecture": "union",
        "configs": [{**_PREFIX, **_GATED}, {**_SEQ, **_GATED}, {**_LORA, **_GATED, "alpha": 2}],
    },
}
_PART = re.compile(r"(?P<name>[^\[\]|\n]+)(?:\[(?P<settings>.*)\])?")
# No such text is longer. Python's parser fails on long and deeply nested texts.
_MAX_LENGTH = 1000


def expand(text: str, path: Path) -> dict[str, Any]:
    """Returns the settings that the library makes of a name.

    The library also reads files that the text may name. They are not read here.

    Args:
        text: The value of field `config`.
        path: The file that it is from.

    Raises:
        InputError: A name or a setting is not known.
    """
    if len(text) > _MAX_LENGTH:
        raise InputError(f"{path}: field 'config': expected the name of a configuration, found {shortened(text)}")
    parts = [_part(part.strip(), path) for part in text.split("|")]
    return parts[0] if len(parts) == 1 else {"architecture": "union", "configs": parts}


def _part(text: str, path: Path) -> dict[str, Any]:
    match = _PART.fullmatch(text)
    if match is None or match["name"] not in NAMED:
        raise InputError(
            f"{path}: field 'config': {shortened(text)} is no configuration of the library, expected one of "
            f"{', '.join(sorted(NAMED))}"
        )
    settings = _settings(match["settings"] or "", path)
    config = NAMED[match["name"]]
    known = LORA_SETTINGS if config.get("architecture") == "lora" else config.keys()
    if unknown := sorted(set(map(str, settings)) - set(known)):
        raise InputError(f"{path}: field 'config': {match['name']!r} has no setting {shortened(unknown[0])}")
    return {**config, **settings}


def _settings(text: str, path: Path) -> dict[Any, Any]:
    """Returns `a=1, b="x"` as a dictionary. Values may only be literals of Python."""
    if not text:
        return {}
    try:
        value: Any = ast.literal_eval("{" + re.sub(r"(\w+)=", r"'\1':", text) + "}")
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{path}: field 'config': expected settings as name=value, found {shortened(text)}")
    return value
