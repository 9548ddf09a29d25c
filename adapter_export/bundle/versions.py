"""Manifests of older versions of the bundle's format, as the present one has them.

Version 2: the value of no adapter stands at each tensor of a site, in place of once at the site.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from adapter_export.reading.shown import shortened
from adapter_export.reading.typed import WrongField


def upgraded(manifest: Mapping[str, Any], version: int) -> Mapping[str, Any]:
    """The JSON of a manifest, in the form of `version`. Fields that are not as they should be stay, for `typed.build`
    to name.

    Raises WrongField for a version that is unknown here, with what to do.
    """
    found = manifest.get("format_version")
    # True is no version, although it equals 1.
    if type(found) is not int or not 1 <= found <= version:
        hint = "; a newer adapter-export made the bundle" if type(found) is int and found > version else ""
        raise WrongField(f"field 'format_version': expected 1 to {version}, found {shortened(found)}{hint}")
    for step in _STEPS[found - 1 :]:
        manifest = step(manifest)
    return {**manifest, "format_version": version}


def _second(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    sites = manifest.get("sites")
    return {**manifest, "sites": [_second_site(site) for site in sites]} if isinstance(sites, list) else manifest


def _second_site(site: Any) -> Any:
    if not isinstance(site, dict) or not isinstance(site.get("tensors"), dict) or "default" not in site:
        return site
    tensors = {
        name: {**info, "default": site["default"]} if isinstance(info, dict) else info
        for name, info in site["tensors"].items()
    }
    return {**{name: value for name, value in site.items() if name != "default"}, "tensors": tensors}


# From version 1 to 2, and so on.
_STEPS: tuple[Callable[[Mapping[str, Any]], Mapping[str, Any]], ...] = (_second,)
