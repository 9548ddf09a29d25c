"""What a module for one method in AdapterHub's format provides (`checkpoints/adapterhub/<method>.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from adapter_export.checkpoints.adapter import Adapter, Checkpoint
from adapter_export.checkpoints.adapterhub.interface import Interface
from adapter_export.methods.contract import SiteAdapter
from adapter_export.modelinfo import ModelInfo
from adapter_export.sites import Site

FORMAT = "adapterhub"


class HubCodec(Protocol):
    """A module with these names.

    LIBRARY_METHOD: the library's name for the method, as in `adapter_methods` of an interface file.
    EXPECTED: what of a config's field `architecture` means this method, for error messages.
    """

    LIBRARY_METHOD: str
    EXPECTED: str

    def recognises(self, config: Mapping[str, Any]) -> bool:
        """Whether the adapter's own settings are those of this method."""

    def why_not(self, config: Mapping[str, Any]) -> str | None:
        """Why settings that look like this method's are not, naming the field; None for others."""

    def site_adapters(
        self, checkpoint: Checkpoint, config: dict[str, Any], info: ModelInfo, interface: Interface | None
    ) -> dict[Site, SiteAdapter]:
        """Operators and tensors by site. interface: what the checkpoint says of its model, or None.

        Raises InputError, naming the field or the tensor, for what is unsupported, missing or misshapen.
        """

    def notes(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """What to tell the user: fields that are set, and that the library ignores."""

    def write(self, adapter: Adapter, info: ModelInfo) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, Any]]:
        """Tensors by their names in the base model, the settings, and what of the places the settings cannot express,
        for our file beside the checkpoint. Raises InputError for what the format has no settings for."""
