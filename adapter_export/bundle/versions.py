"""Converts manifests of older versions of the bundle's format to the present version.

Changes in version 2:
- the value without an adapter is recorded for each tensor of a site, not once for the site;
- a site has a role and the name of its operator; a task head has no method, in place of the method `head`;
- the longest text is recorded; before, the runtime looked it up in the model's config.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adapter_export.architectures.positions import longest_text_of
from adapter_export.naming import HEAD_OP
from adapter_export.reading.json_files import optional_json
from adapter_export.reading.shown import shortened
from adapter_export.reading.typed import WrongField


def upgraded(manifest: Mapping[str, Any], version: int, bundle: Path) -> Mapping[str, Any]:
    """Returns the JSON of a manifest in the form of a later version.

    Fields of a wrong type are not changed. `reading.typed` reports them with their names.

    Args:
        manifest: The manifest as it is in its file.
        version: The version to convert it to.
        bundle: Folder of the bundle.

    Raises:
        WrongField: The manifest is of a version that this package does not know.
        InputError: The config.json of the bundle is needed and cannot be read.
    """
    found = manifest.get("format_version")
    # True equals 1, but is no version.
    if type(found) is not int or not 1 <= found <= version:
        hint = "; a newer adapter-export made the bundle" if type(found) is int and found > version else ""
        raise WrongField(f"field 'format_version': expected 1 to {version}, found {shortened(found)}{hint}")
    for step in _STEPS[found - 1 :]:
        manifest = step(manifest, bundle)
    return {**manifest, "format_version": version}


def _second(manifest: Mapping[str, Any], bundle: Path) -> Mapping[str, Any]:
    sites = manifest.get("sites")
    changed = {"sites": [_second_site(site) for site in sites]} if isinstance(sites, list) else {}
    return {**manifest, **changed, "longest_text": longest_text_of(optional_json(bundle / "config.json"))}


def _second_site(site: Any) -> Any:
    if not isinstance(site, dict) or not isinstance(site.get("tensors"), dict) or "default" not in site:
        return site
    tensors = {
        name: {**info, "default": site["default"]} if isinstance(info, dict) else info
        for name, info in site["tensors"].items()
    }
    is_head = site.get("method") == HEAD_OP
    return {
        **{name: value for name, value in site.items() if name != "default"},
        "role": "head" if is_head else "adapter",
        "method": None if is_head else site.get("method"),
        "op_name": next(iter(tensors), "").rpartition(".")[0].rpartition(".")[2],
        "tensors": tensors,
    }


# The step from version 1 to 2, and so on.
_STEPS: tuple[Callable[[Mapping[str, Any], Path], Mapping[str, Any]], ...] = (_second,)
