"""A bank in memory: who gets which numbers, what makes way for what, and what a run holds on to."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from adapter_export.bundle.bank import rows_table
from adapter_export.bundle.graphs import ADAPTER_IDS, MODEL
from adapter_export.bundle.manifest import AdapterInfo, AdapterTensorInfo, GraphInfo, Manifest, SiteInfo, SiteRole
from adapter_export.bundle.modes import Mode
from adapter_export.dtypes import DType
from adapter_export.errors import InputError
from adapter_export.modelinfo import ModelInfo
from adapter_export.providers import Provider
from adapter_export.runtime.adapters import bank as module
from adapter_export.runtime.adapters import rows as rows_module
from adapter_export.runtime.adapters.bank import BankPool
from adapter_export.runtime.adapters.loaded import Lease, LoadedAdapter

VECTOR, DOWN, BIAS = "a.ia3.l", "b.bottleneck_relu.down", "b.bottleneck_relu.down_bias"
WEIGHT, LABELS = "classifier.head.weight", "classifier.head.bias"


def site(module_path: str, method: str, default: float | None, **tensors: tuple[int | str, ...]) -> SiteInfo:
    kind = {"ia3": "ia3", "bottleneck": "bottleneck_relu", "head": "head"}[method]
    named = {
        f"{module_path}.{kind}.{name}": AdapterTensorInfo(DType.FLOAT32, dims, default)
        for name, dims in tensors.items()
    }
    if method == "head":
        return SiteInfo(module_path, "replace", SiteRole.HEAD, kind, kind, None, named)
    return SiteInfo(module_path, "output", SiteRole.ADAPTER, kind, kind, method, named)


def manifest(labels: tuple[str, ...] | None = None) -> Manifest:
    info = ModelInfo("bert", "BertModel", "bert", False, 4, {}, {})
    sites = (
        site("a", "ia3", 1.0, l=(4,)),
        site("b", "bottleneck", 0.0, down=(4, "b.width"), down_bias=("b.width",)),
        site("classifier", "head", None, weight=("num_labels", 4), bias=("num_labels",)),
    )
    adapters = (AdapterInfo("x", "ia3", "peft", "", 4, file="adapters/x.onnx_adapter"),)
    return Manifest(
        "1",
        Mode.BANK,
        "text-classification",
        DType.FLOAT32,
        20,
        info,
        {MODEL: GraphInfo({}, {})},
        sites,
        adapters,
        {},
        labels,
    )


def ia3(name: str, value: float = 0.0, labels: int = 2) -> LoadedAdapter:
    """Random, or one value everywhere."""
    rng = np.random.default_rng([ord(letter) for letter in name])
    shapes = {VECTOR: (4,), WEIGHT: (labels, 4), LABELS: (labels,)}
    tensors = {
        key: np.full(shape, value, np.float32) if value else rng.standard_normal(shape, np.float32)
        for key, shape in shapes.items()
    }
    return LoadedAdapter(name, tensors, tuple("abcdefgh"[:labels]))


def bottleneck(name: str, width: int) -> LoadedAdapter:
    rng = np.random.default_rng([ord(letter) for letter in name])
    return LoadedAdapter(
        name, {DOWN: rng.standard_normal((4, width), np.float32), BIAS: np.ones(width, np.float32)}, None
    )


def unknown(name: str) -> LoadedAdapter:
    raise InputError(f"adapter {name!r}: expected one of none")


def bank(slots: int, *adapters: LoadedAdapter) -> BankPool:
    made = BankPool(manifest(), {}, slots, Provider.CPU)
    for adapter in adapters:
        made.put(adapter)
    return made


def chosen(lease: Lease, tensor: str) -> list[np.ndarray]:
    """What the graph gathers for each row of the batch."""
    feeds: Mapping[str, Any] = lease.feeds
    rows = feeds[rows_table(tensor.split(".")[1])][feeds[ADAPTER_IDS]]
    return list(feeds[tensor].numpy()[rows].copy())


class TestNumbers:
    def test_each_row_has_the_tensors_of_its_adapter(self) -> None:
        x, y = ia3("x", labels=2), bottleneck("y", width=3)
        with bank(4, x, y).lease(["y", None, "x"], unknown) as lease:
            vectors, downs, biases = chosen(lease, VECTOR), chosen(lease, DOWN), chosen(lease, LABELS)
        assert np.array_equal(vectors[2], x.tensors[VECTOR][None])
        assert np.array_equal(downs[0], y.tensors[DOWN])
        # What an adapter has not is what no adapter has.
        assert all(np.array_equal(vectors[row], np.ones((1, 4))) for row in (0, 1))
        assert not any(downs[row].any() for row in (1, 2))
        assert np.array_equal(biases[2], x.tensors[LABELS][None])
        assert all((biases[row] == -np.inf).all() for row in (0, 1))

    def test_of_a_kind_that_no_row_has_the_graph_gathers_nothing_but_row_0(self) -> None:
        made = bank(4, ia3("x"), bottleneck("y", width=3))
        with made.lease(["x", None], unknown) as lease:
            assert lease.feeds[DOWN].shape() == [1, 4, 1]  # type: ignore[union-attr]
            assert not any(row.any() for row in (*chosen(lease, DOWN), *chosen(lease, BIAS)))
        with made.lease(["y"], unknown) as lease:
            assert np.array_equal(chosen(lease, VECTOR), np.ones((1, 1, 4)))
            assert np.array_equal(chosen(lease, DOWN)[0], bottleneck("y", width=3).tensors[DOWN])

    def test_narrow_adapters_are_padded_and_wide_ones_make_room(self) -> None:
        narrow, wide = bottleneck("narrow", 2), bottleneck("wide", 5)
        two, five = ia3("two", labels=2), ia3("five", labels=5)
        made = bank(4, narrow, two)
        before = made.lease(["narrow", "two"], unknown)
        seen = {name: before.feeds[name].numpy().copy() for name in (DOWN, LABELS)}  # type: ignore[union-attr]
        made.put(wide)
        made.put(five)
        with made.lease(["narrow", "wide", "two", "five"], unknown) as lease:
            downs, biases = chosen(lease, DOWN), chosen(lease, LABELS)
            assert np.array_equal(downs[0], np.pad(narrow.tensors[DOWN], ((0, 0), (0, 3))))
            assert np.array_equal(downs[1], wide.tensors[DOWN])
            assert np.array_equal(biases[2][0], [*two.tensors[LABELS], -np.inf, -np.inf, -np.inf])
            assert np.array_equal(biases[3][0], five.tensors[LABELS])
        # A run that began before goes on with what it had.
        assert all(np.array_equal(before.feeds[name].numpy(), value) for name, value in seen.items())  # type: ignore[union-attr]

    def test_a_head_of_the_base_model_is_that_of_no_adapter(self) -> None:
        own = {WEIGHT: np.arange(12, dtype=np.float32).reshape(3, 4), LABELS: np.arange(3, dtype=np.float32)}
        made = BankPool(manifest(("a", "b", "c")), own, 2, Provider.CPU)
        made.put(bottleneck("y", 1))
        with made.lease([None, "y"], unknown) as lease:
            assert all(np.array_equal(row, own[WEIGHT]) for row in chosen(lease, WEIGHT))
            assert lease.labels(("a", "b", "c")) == [3, 3]

    def test_memory_is_that_of_each_kinds_own_adapters(self) -> None:
        made = bank(100, *(ia3(f"v{i}") for i in range(10)), bottleneck("y", 8))
        one = sum(tensor.nbytes for tensor in ia3("v").tensors.values())
        assert made.nbytes == 10 * one + (4 * 8 + 8) * 4


class TestSlots:
    def test_the_least_recently_used_makes_way(self) -> None:
        made = bank(2, ia3("a"), ia3("b"))
        made.lease(["a"], unknown).release()
        made.put(ia3("c"))
        assert made.names == ("a", "c")
        assert made.evictions == {"b": 1}

    def test_what_a_run_has_stays(self) -> None:
        made = bank(2, ia3("a"), ia3("b"))
        with made.lease(["a"], unknown) as lease:
            numbers = chosen(lease, VECTOR)
            for name in ("c", "d", "e"):
                made.put(ia3(name))
                assert "a" in made.names
            assert np.array_equal(chosen(lease, VECTOR), numbers)
        made.put(ia3("f"))
        made.put(ia3("g"))
        assert made.names == ("f", "g")

    def test_what_is_not_there_is_read(self) -> None:
        made, asked = bank(2), []

        def load(name: str) -> LoadedAdapter:
            asked.append(name)
            return ia3(name)

        for names in (["a", "b", "a"], ["b", None], ["c", "b"], ["a", "b"]):
            with made.lease(names, load) as lease:
                for name, vector in zip(names, chosen(lease, VECTOR), strict=True):
                    assert np.array_equal(vector[0], ia3(name).tensors[VECTOR] if name else np.ones(4))
        assert asked == ["a", "b", "c", "a"]
        with pytest.raises(InputError, match="'z': expected one of none"):
            made.lease(["a", "z"], unknown)

    def test_a_new_version_is_for_those_who_come_later(self) -> None:
        made = bank(2, ia3("a", 1.0))
        first = made.lease(["a"], unknown)
        made.put(ia3("a", 2.0))
        with made.lease(["a"], unknown) as second:
            assert np.array_equal(chosen(first, VECTOR), np.full((1, 1, 4), 1.0))
            assert np.array_equal(chosen(second, VECTOR), np.full((1, 1, 4), 2.0))
        first.release()
        # Its slot is free again: both fit beside each other.
        made.put(ia3("b"))
        assert made.names == ("a", "b")

    def test_removed_while_it_runs(self) -> None:
        made = bank(1, ia3("a", 1.0))
        with made.lease(["a"], unknown) as lease:
            assert made.remove("a")
            assert not made.remove("a")
            assert made.names == ()
            assert np.array_equal(chosen(lease, VECTOR), np.full((1, 1, 4), 1.0))
        made.put(ia3("b"))
        assert made.nbytes == ia3("b").nbytes

    def test_a_lease_that_nobody_has_is_over(self) -> None:
        made = bank(1, ia3("a"))
        lease = made.lease(["a"], unknown)
        del lease
        gc.collect()
        made.put(ia3("b"))
        assert made.names == ("b",)


class TestLimits:
    def test_more_in_a_batch_than_there_are_slots(self) -> None:
        with pytest.raises(InputError, match="3 different ones in a batch, but the bank has 2 slots"):
            bank(2).lease(["a", "b", "c"], ia3)

    def test_no_slots(self) -> None:
        with pytest.raises(InputError, match="slots 0: expected at least 1"):
            bank(0)

    def test_slots_held_for_too_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "WAIT_SECONDS", 0.01)
        made = bank(1, ia3("a"))
        with made.lease(["a"], unknown):
            for action in (lambda: made.lease(["b"], ia3), lambda: made.put(ia3("b"))):
                with pytest.raises(InputError, match="all 1 of the bank are held by runs under way"):
                    action()
        assert np.array_equal(chosen(made.lease(["b"], ia3), VECTOR)[0][0], ia3("b").tensors[VECTOR])

    def test_one_that_waits_gets_the_slot_when_it_is_free(self) -> None:
        made = bank(1, ia3("a"))
        lease = made.lease(["a"], unknown)
        got: list[Lease] = []
        thread = threading.Thread(target=lambda: got.append(made.lease(["b"], ia3)))
        thread.start()
        assert not got
        lease.release()
        thread.join(30)
        assert np.array_equal(chosen(got[0], VECTOR)[0][0], ia3("b").tensors[VECTOR])

    def test_no_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made, wide = bank(2, bottleneck("a", 1), ia3("b")), bottleneck("c", 9)

        room_for, calls = rows_module.room_for, iter(range(9))

        def refuse(*args: Any) -> np.ndarray:
            if next(calls) == 1:  # the second tensor of the kind
                raise MemoryError
            return room_for(*args)

        with monkeypatch.context() as patch:
            patch.setattr(rows_module, "room_for", refuse)
            with pytest.raises(InputError, match=r"no memory for 3 rows of 'b\.bottleneck_relu\.down"):
                made.lease(["a", "c"], lambda _: wide)
        # What was there is there as it was, and nothing is held.
        assert made.names == ("b", "a")
        assert np.array_equal(chosen(made.lease(["a"], unknown), DOWN)[0], bottleneck("a", 1).tensors[DOWN])
        made.put(ia3("d"))
        made.put(ia3("e"))
        assert made.names == ("d", "e")


def values() -> Iterator[float]:
    number = 1.0
    while True:
        yield number
        number += 1.0


def test_threads_that_swap_and_run_see_one_version_of_one_adapter() -> None:
    names, versions, lock = [f"n{i}" for i in range(9)], values(), threading.Lock()
    latest: dict[str, float] = {}
    files: dict[str, LoadedAdapter] = {}
    made = bank(5)
    wrong: list[str] = []

    def write(name: str) -> LoadedAdapter:
        with lock:
            latest[name] = value = next(versions)
            # Each name is always IA3 or always a bottleneck, of a width that changes.
            width = 1 + int(value) % 7
            files[name] = (
                ia3(name, value)
                if names.index(name) % 2
                else LoadedAdapter(
                    name,
                    {DOWN: np.full((4, width), value, np.float32), BIAS: np.full(width, value, np.float32)},
                    None,
                )
            )
            return files[name]

    for name in names:
        write(name)

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(150):
            match rng.integers(8):
                case 0:
                    made.put(write(names[rng.integers(9)]))
                case 1:
                    made.remove(names[rng.integers(9)])
                case _:
                    batch = [names[i] for i in rng.integers(9, size=3)]
                    with made.lease(batch, lambda name: files[name]) as lease:
                        check(batch, lease)

    def check(batch: list[str], lease: Lease) -> None:
        vectors, downs, biases = (chosen(lease, tensor) for tensor in (VECTOR, DOWN, BIAS))
        for row, name in enumerate(batch):
            if names.index(name) % 2:
                found, others = {*vectors[row].ravel()}, {*downs[row].ravel()}
            else:
                # Padding beside the numbers, and the same version in both tensors.
                found = {*downs[row].ravel(), *biases[row].ravel()} - {0.0}
                others = {*vectors[row].ravel()} - {1.0}
            if len(found) != 1 or others - {0.0} or not found.pop() <= latest[name]:
                wrong.append(name)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not wrong
    assert not any(thread.is_alive() for thread in threads)
    # Nothing is held or lost: all slots and rows can be had.
    made.clear()
    assert made.nbytes == 0
    with made.lease([names[0], names[1], names[2], names[3], names[4]], lambda name: files[name]):
        assert len(made.names) == 5
