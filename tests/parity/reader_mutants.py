"""Mistakes in the reading of checkpoints and base models, which affect the export and our own reference alike.

Each patches the place through which everything is read: the registry of formats, or the loading of base models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from adapter_export import tasks
from adapter_export.checkpoints import folder
from adapter_export.checkpoints.adapter import Adapter, Checkpoint, HeadLayer
from adapter_export.export import prepare
from adapter_export.methods.contract import SiteAdapter
from adapter_export.sites import Port, Site

Patch = Callable[[pytest.MonkeyPatch], None]
ChangeAdapter = Callable[[Adapter], Adapter]


@dataclass(frozen=True)
class ReaderMutant:
    """A mistake in the reading.

    Attributes:
        case: The model and adapter that are exported and judged, see `test_reader_mutants`.
        patch: Makes the mistake.
        exported: Whether the graph is exported with the mistake, as it changes more than values of the adapter. If not,
            the adapter is added to a graph that was exported without it, which takes a hundredth of the time.
    """

    name: str
    case: str
    patch: Patch
    exported: bool = False


def reading(change: ChangeAdapter) -> Patch:
    """Applies `change` to every adapter after its checkpoint was read."""
    return _formats(lambda known: {"resolve": lambda *args: change(known.resolve(*args))})


def reading_from(change: Callable[[Checkpoint], Checkpoint]) -> Patch:
    """Applies `change` to the contents of a checkpoint's folder before it is read."""
    return _formats(lambda known: {"resolve": lambda checkpoint, info: known.resolve(change(checkpoint), info)})


def with_config(**fields: Any) -> Patch:
    """Reads every checkpoint as if its config had these values."""
    return reading_from(lambda checkpoint: replace(checkpoint, config={**checkpoint.config, **fields}))


def taken_for(task: str) -> Patch:
    """Reads every checkpoint for that task, and silently drops what the task has no place for."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        def load(*args: Any, **options: Any) -> Adapter:
            return folder.load_adapter(*args, **{**options, "leave_head": True})

        monkeypatch.setattr(prepare, "choose_task", lambda *_: task)
        monkeypatch.setattr(prepare, "load_adapter", load)

    return patch


def _formats(overrides: Callable[[Any], Mapping[str, Any]]) -> Patch:
    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        for name, known in dict(folder._FORMATS).items():
            own = {key: getattr(known, key) for key in dir(known) if not key.startswith("__")}
            monkeypatch.setitem(folder._FORMATS, name, SimpleNamespace(**{**own, **overrides(known)}))  # type: ignore[arg-type]

    return patch


def base_changed(change: Callable[[Any], None]) -> Patch:
    """Applies `change` to every base model after it was loaded."""
    import transformers

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        def loading(kind: Any) -> Any:
            original = kind.from_pretrained

            def from_pretrained(*args: Any, **kwargs: Any) -> Any:
                result = original(*args, **kwargs)
                change(result[0] if isinstance(result, tuple) else result)
                return result

            return from_pretrained

        # The witness is not affected: it loads a model by its own class.
        for name in {task.auto_class for task in tasks.TASKS.values()}:
            kind = getattr(transformers, name)
            monkeypatch.setattr(kind, "from_pretrained", loading(kind))

    return patch


def loaded_as(auto_class: str) -> Patch:
    """Loads every base model with that class of transformers."""
    return lambda monkeypatch: monkeypatch.setattr(tasks, "auto_class", lambda task, model_type: auto_class)


# Changes of an adapter after it was read


def tensors(part: str, change: Callable[[np.ndarray], np.ndarray], of: str = "") -> ChangeAdapter:
    """Applies `change` to the tensors named `part` at the sites whose names contain `of`."""

    def apply(adapter: Adapter) -> Adapter:
        sites = dict(adapter.sites)
        for site, site_adapter in adapter.sites.items():
            if of in site.name and part in site_adapter.tensors:
                new = np.ascontiguousarray(change(site_adapter.tensors[part]))
                sites[site] = replace(site_adapter, tensors={**site_adapter.tensors, part: new})
        assert any(site_adapter is not adapter.sites[site] for site, site_adapter in sites.items()), (part, of)
        return replace(adapter, sites=sites)

    return apply


def every(change: Callable[[SiteAdapter], SiteAdapter]) -> ChangeAdapter:
    """Applies `change` to what stands at each site."""
    return lambda adapter: replace(adapter, sites={site: change(item) for site, item in adapter.sites.items()})


def sites(change: Callable[[Site], Site]) -> ChangeAdapter:
    """Moves the tensors of each site to the site that `change` returns."""
    return lambda adapter: replace(
        adapter, sites={change(site): site_adapter for site, site_adapter in adapter.sites.items()}
    )


def exchanged(first: str, second: str) -> ChangeAdapter:
    """Exchanges the tensors of `first` and of `second`."""

    def other(site: Site) -> Site:
        fields = {name: _swap(getattr(site, name), first, second) for name in ("module", "residual", "output", "norm")}
        return replace(site, **fields)

    return sites(other)


def _swap(text: str, first: str, second: str) -> str:
    return text.replace(first, second) if first in text else text.replace(second, first)


def at_input(module: str) -> ChangeAdapter:
    """Moves a vector from the output side of a module to its input side."""
    return sites(lambda site: replace(site, port=Port.INPUT) if site.module == module else site)


def head(change: Callable[[HeadLayer], HeadLayer], of: str) -> ChangeAdapter:
    """Applies `change` to one layer of the task head."""
    return lambda adapter: replace(adapter, head={**adapter.head, of: change(adapter.head[of])})


def without_head(adapter: Adapter) -> Adapter:
    return replace(adapter, head={}, labels=None)


def labels_reversed(adapter: Adapter) -> Adapter:
    return replace(adapter, labels=None if adapter.labels is None else adapter.labels[::-1])
