"""The interface of a module for one method in PEFT's format (`checkpoints/peft/<method>.py`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from adapter_export.checkpoints.adapter import Adapter, Checkpoint
from adapter_export.checkpoints.codecs import codecs
from adapter_export.checkpoints.peft.config import PeftConfig
from adapter_export.errors import InputError
from adapter_export.methods.contract import SiteAdapter
from adapter_export.modelinfo import ModelInfo
from adapter_export.reading.fields import field
from adapter_export.reading.shown import shortened
from adapter_export.sites import Site

FORMAT = "peft"


class PeftCodec(Protocol):
    """A module with these names.

    Attributes:
        PEFT_TYPE: The config's `peft_type`.
        FIELDS: The method's own config fields that decide what the adapter computes.
        INERT: The method's own config fields that do not, with their types.
        KEY: Matches the name of a tensor of the method, without PEFT's prefix.
        ADAPTER_NAME: Matches the part of such a name that is the adapter's own name. PEFT leaves it out of its files;
            other writers may not.
    """

    PEFT_TYPE: str
    FIELDS: frozenset[str]
    INERT: Mapping[str, type]
    KEY: re.Pattern[str]
    ADAPTER_NAME: re.Pattern[str]

    def check(self, config: Mapping[str, Any], path: Path) -> None:
        """Checks the method's own fields of the config read from `path`. Raises InputError that names the field."""

    def site_adapters(
        self, checkpoint: Checkpoint, config: PeftConfig, info: ModelInfo
    ) -> tuple[dict[Site, SiteAdapter], tuple[str, ...]]:
        """Returns operators and tensors by site, and notes for the user.

        Raises:
            InputError: A tensor is unknown, missing or misshapen.
        """

    def write(self, adapter: Adapter, info: ModelInfo) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Returns the tensors by their names in the model, and the method's own config fields."""


def codec_of(config: Mapping[str, Any], path: Path) -> tuple[str, PeftCodec]:
    """Returns the method of a config read from `path`, and its module. Raises InputError for an unknown method."""
    kind = field(config, path, "peft_type", str)
    known = codecs(FORMAT)
    for method, module in known.items():
        if kind == module.PEFT_TYPE:
            return method, cast("PeftCodec", module)
    expected = " or ".join(repr(module.PEFT_TYPE) for module in known.values())
    raise InputError(f"{path}: field 'peft_type': expected {expected}, found {shortened(kind)}")
