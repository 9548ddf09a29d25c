"""Adapters of mode swappable in memory."""

from __future__ import annotations

import threading

import numpy as np

from adapter_export.runtime.adapters.loaded import LoadedAdapter
from adapter_export.runtime.adapters.pool import SwappedPool
from tests.runtime.batching.fake import manifest_of


def adapter(name: str, value: int) -> LoadedAdapter:
    return LoadedAdapter(name, {"x": np.full(3, value, np.float32)}, None)


def test_put_get_and_remove() -> None:
    store = SwappedPool(manifest_of(), {})
    assert store.get("a") is None
    assert not store.remove("a")
    first, second = adapter("a", 1), adapter("a", 2)
    store.put(first)
    store.put(adapter("b", 3))
    held = store.get("a")
    store.put(second)
    assert held is first
    assert store.get("a") is second
    assert store.names == ("a", "b")
    assert second.nbytes == 12
    assert store.remove("a")
    assert store.names == ("b",)
    store.clear()
    assert store.names == ()


def test_threads_see_whole_adapters() -> None:
    store = SwappedPool(manifest_of(), {})
    stop = threading.Event()
    wrong: list[object] = []

    def read() -> None:
        while not stop.is_set():
            found = store.get("a")
            if found is not None and len(set(found.tensors["x"].tolist())) != 1:
                wrong.append(found)
            if len(store.names) > 1:
                wrong.append(store.names)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for value in range(2000):
        store.put(adapter("a", value))
        if value % 3 == 0:
            store.remove("a")
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
