"""The interface of a module for one method in AdapterHub's format (`checkpoints/adapterhub/<method>.py`)."""

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

    Attributes:
        LIBRARY_METHOD: The library's name for the method, as in `adapter_methods` of an interface file.
        EXPECTED: The values of a config's field `architecture` that mean this method, for error messages.
    """

    LIBRARY_METHOD: str
    EXPECTED: str

    def recognises(self, config: Mapping[str, Any]) -> bool:
        """Returns whether the adapter's own settings are those of this method."""

    def why_not(self, config: Mapping[str, Any]) -> str | None:
        """Returns why settings that look like this method's are not, naming the field; None for any other settings."""

    def site_adapters(
        self, checkpoint: Checkpoint, config: dict[str, Any], info: ModelInfo, interface: Interface | None
    ) -> dict[Site, SiteAdapter]:
        """Returns operators and tensors by site.

        Args:
            checkpoint: The checkpoint.
            config: The adapter's own settings.
            info: Description of the base model.
            interface: The checkpoint's description of its model, or None.

        Raises:
            InputError: A setting is not supported, or a tensor is missing or misshapen. The error names the field or
                the tensor.
        """

    def notes(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """Returns notes for the user on fields that are set, and that the library ignores."""

    def write(self, adapter: Adapter, info: ModelInfo) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, Any]]:
        """Returns the tensors by their names in the base model, the settings, and what the settings cannot express.

        The third is for our file beside the checkpoint.

        Raises:
            InputError: The format has no settings for the adapter.
        """
