"""Composes adapters: computes the tensors of several adapters at once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations

import numpy as np

from adapter_export.bundle.manifest import Manifest, SiteInfo, SiteRole
from adapter_export.composition import composed
from adapter_export.errors import InputError
from adapter_export.runtime.adapters.choice import Composition, head_among
from adapter_export.runtime.adapters.loaded import LoadedAdapter

# How many compositions are kept. A caller may try any number of strengths.
_KEPT = 16


class Composer:
    """Composes adapters of one bundle, for many threads. Keeps the compositions that were used last."""

    def __init__(self, manifest: Manifest) -> None:
        self._sites = tuple(site for site in manifest.sites if site.role is SiteRole.ADAPTER)
        self._heads = tuple(name for site in manifest.heads for name in site.tensors)
        self._lock = threading.Lock()
        # With the adapters that each was made of. Others of their names make another composition.
        self._kept: OrderedDict[Composition, tuple[tuple[LoadedAdapter, ...], LoadedAdapter]] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Bytes of the compositions that are kept."""
        with self._lock:
            return sum(made.nbytes for _, made in self._kept.values())

    def clear(self) -> None:
        """Forgets all compositions."""
        with self._lock:
            self._kept.clear()

    def forget(self, name: str) -> None:
        """Forgets the compositions that contain this adapter."""
        with self._lock:
            for key in [key for key in self._kept if name in key.names]:
                del self._kept[key]

    def kept(self, key: Composition, adapters: Sequence[LoadedAdapter]) -> LoadedAdapter:
        """Returns the composition like `compose`, and keeps it for the next call with the same adapters."""
        parts = tuple(adapters)
        with self._lock:
            known = self._kept.get(key)
            if known is not None and all(one is other for one, other in zip(known[0], parts, strict=True)):
                self._kept.move_to_end(key)
                return known[1]
        made = self.compose(key, parts)
        with self._lock:
            self._kept[key] = parts, made
            self._kept.move_to_end(key)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return made

    def compose(self, key: Composition, adapters: Sequence[LoadedAdapter]) -> LoadedAdapter:
        """Returns the composition as one adapter.

        Args:
            key: The composition.
            adapters: Its adapters, in the order of its parts.

        Raises:
            InputError: The tensors of a site have no rule, adapters act on one module by different operators, or
                it is not clear whose task head is used.
        """
        by_name = {str(adapter.key): adapter for adapter in adapters}
        strengths = {name: strength for name, strength in key.parts if strength != 0}
        tensors: dict[str, np.ndarray] = {}
        operators: dict[str, set[tuple[str, str]]] = {}
        for site in self._sites:
            acting = [name for name in strengths if any(tensor in by_name[name].tensors for tensor in site.tensors)]
            operators.setdefault(site.module, set()).update((name, site.op_name) for name in acting)
            tensors |= _at(site, {name: by_name[name].tensors for name in acting}, strengths)
        _check_order(operators)
        head = head_among(key, {name: adapter.labels is not None for name, adapter in by_name.items()})
        if head is not None:
            tensors |= {name: by_name[head].tensors[name] for name in self._heads}
        for tensor in tensors.values():
            tensor.flags.writeable = False
        return LoadedAdapter(key, tensors, None if head is None else by_name[head].labels)


def _check_order(operators: Mapping[str, Collection[tuple[str, str]]]) -> None:
    """Raises InputError if two adapters act on one module by different operators.

    The graph has one order of the operators of a module, and nothing says that it is the one that is meant.

    Args:
        operators: The adapters and their operators, by module.
    """
    for module, acting in operators.items():
        for (one, first), (other, second) in combinations(sorted(acting), 2):
            if one != other and first != second:
                raise InputError(
                    f"adapters {one!r} and {other!r}: both change module {module!r}, by {first} and {second}; which of "
                    "the two comes first is not known, so they cannot be composed"
                )


def _at(
    site: SiteInfo, acting: Mapping[str, Mapping[str, np.ndarray]], strengths: Mapping[str, float]
) -> dict[str, np.ndarray]:
    """Returns the composed tensors of a site.

    Args:
        site: The site.
        acting: The tensors of the adapters that act at the site, by the adapter's name.
        strengths: The strength of each adapter.
    """
    if not acting:
        return {}
    if len(acting) == 1 and strengths[next(iter(acting))] == 1:
        (tensors,) = acting.values()
        return {name: tensors[name] for name in site.tensors}
    result = {}
    for name, info in site.tensors.items():
        if info.composition is None or info.default is None:
            raise InputError(
                f"adapters {', '.join(map(repr, acting))}: tensor {name!r}: the bundle has no rule for composing "
                f"tensors of {site.op_name}, or for a strength other than 1"
            )
        own = [tensors[name] for tensors in acting.values()]
        try:
            result[name] = composed(own, [strengths[key] for key in acting], info.composition, info.shape, info.default)
        except InputError as error:
            raise InputError(f"adapters {', '.join(map(repr, acting))}: tensor {name!r}: {error}") from None
    return result
