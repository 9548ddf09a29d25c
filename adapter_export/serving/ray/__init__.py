"""Serves a bundle on a Ray cluster: `serve run adapter_export.serving.ray:build bundle=FOLDER`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def build(arguments: Mapping[str, Any]) -> Any:
    """Returns the Ray Serve application of a bundle.

    Args:
        arguments: The fields of `arguments.Arguments` by name; of which `bundle` must be given.

    Returns:
        A `ray.serve.Application`, for `serve.run`, `serve run` and `serve deploy`.

    Raises:
        InputError: An argument is unknown, missing or out of range.
    """
    from adapter_export.serving.ray.application import application
    from adapter_export.serving.ray.arguments import checked

    return application(checked(arguments))
