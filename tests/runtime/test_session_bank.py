"""Sessions of banks, against sessions of the same adapters one at a time."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from adapter_export.bundle.add import add_adapter
from adapter_export.bundle.manifest import NO_ADAPTER_FILE, read_manifest
from adapter_export.errors import InputError
from adapter_export.export.export import export_onnx
from adapter_export.runtime.session import AdapterSession
from tests.bundles import Exported

NAMES = ("ia3_two", "ia3_three", "houlsby_four", "houlsby_two", "pfeiffer_five")
# float32, relative to the logits' size: a row's matrices are multiplied by other kernels than one for all rows.
TOLERANCE = 2e-6


@pytest.fixture(scope="module")
def single(swappable_bundle: Exported) -> Iterator[AdapterSession]:
    with AdapterSession(swappable_bundle.bundle) as session:
        yield session


@pytest.fixture
def bank(bank_bundle: Exported) -> Iterator[AdapterSession]:
    with AdapterSession(bank_bundle.bundle, slots=3) as session:
        yield session


@pytest.fixture(scope="module")
def inputs(inputs_for: Callable[..., dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    batch = inputs_for("bert", 4, 9)
    return {**batch, "token_type_ids": np.arange(36).reshape(4, 9) % 2}


def row_of(inputs: dict[str, np.ndarray], row: int) -> dict[str, np.ndarray]:
    return {name: value[row : row + 1] for name, value in inputs.items()}


def assert_close(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape
    if wanted.size:
        assert np.abs(found - wanted).max() <= TOLERANCE * np.sqrt(np.mean(wanted**2))


class TestRows:
    def test_each_row_is_what_it_is_alone(
        self, bank: AdapterSession, single: AdapterSession, inputs: dict[str, np.ndarray]
    ) -> None:
        for names in (
            ["ia3_two", "houlsby_four", None, "ia3_two"],
            ["pfeiffer_five", None, "ia3_three", "houlsby_two"],
        ):
            rows = bank.run_rows(inputs, names)
            for row, name in enumerate(names):
                assert_close(rows[row]["logits"], single.run(row_of(inputs, row), name)["logits"][0])
                # Beside others or alone, bit for bit.
                alone = bank.run(row_of(inputs, row), name)["logits"][0]
                assert np.array_equal(rows[row]["logits"], alone)

    def test_rows_in_one_array(self, bank: AdapterSession, inputs: dict[str, np.ndarray]) -> None:
        names = ["ia3_two", None, "houlsby_four", "ia3_three"]
        logits = bank.run(inputs, adapters=names)["logits"]
        assert logits.shape == (4, 4)
        for row, (name, found) in enumerate(zip(names, bank.run_rows(inputs, names), strict=True)):
            labels = len(bank.labels(name) or ())
            assert np.array_equal(logits[row, :labels], found["logits"])
            # No label that the row has not can win, or take probability.
            assert (logits[row, labels:] == -np.inf).all()

    def test_one_for_all(self, bank: AdapterSession, single: AdapterSession, inputs: dict[str, np.ndarray]) -> None:
        assert_close(bank.run(inputs, "pfeiffer_five")["logits"], single.run(inputs, "pfeiffer_five")["logits"])
        assert bank.run(inputs)["logits"].shape == (4, 0)

    def test_a_base_model_with_a_head(
        self, headed_bundle: Exported, inputs: dict[str, np.ndarray], tmp_path: Path
    ) -> None:
        export_onnx(headed_bundle.base, headed_bundle.adapters, tmp_path / "bank", mode="bank")
        assert NO_ADAPTER_FILE in read_manifest(tmp_path / "bank").files
        with AdapterSession(tmp_path / "bank") as bank, AdapterSession(headed_bundle.bundle) as one:
            rows = bank.run_rows(inputs, ["ia3", None, "ia3", None])
            for row, name in enumerate(["ia3", None] * 2):
                assert_close(rows[row]["logits"], one.run(row_of(inputs, row), name)["logits"][0])
        (tmp_path / "bank" / NO_ADAPTER_FILE).write_bytes(b"other")
        with pytest.raises(InputError, match=f"{NO_ADAPTER_FILE}: expected a file with sha256"):
            AdapterSession(tmp_path / "bank", verify=False)


class TestBadInput:
    def test_as_many_as_rows(self, bank: AdapterSession, inputs: dict[str, np.ndarray]) -> None:
        with pytest.raises(InputError, match="adapters: expected 4, one for each row of the batch, found 2"):
            bank.run(inputs, adapters=["ia3_two", None])

    def test_one_or_many(self, bank: AdapterSession, inputs: dict[str, np.ndarray]) -> None:
        with pytest.raises(InputError, match="expected either these, one a row, or one adapter for all; found both"):
            bank.run(inputs, "ia3_two", adapters=["ia3_two"] * 4)

    def test_names_nobody_has(self, bank: AdapterSession, inputs: dict[str, np.ndarray]) -> None:
        with pytest.raises(InputError, match="adapter 'nobody': expected one of ia3_two, "):
            bank.run(inputs, adapters=["ia3_two", "nobody", None, None])
        assert bank.run(inputs, "ia3_two")["logits"].shape == (4, 2)

    def test_numbers_are_the_runtimes_own(self, bank: AdapterSession, inputs: dict[str, np.ndarray]) -> None:
        with pytest.raises(InputError, match="'adapter_ids': is a tensor of an adapter; choose an adapter by its name"):
            bank.run({**inputs, "adapter_ids": np.zeros(4, np.int64)})

    def test_many_in_a_graph_for_one(self, single: AdapterSession, inputs: dict[str, np.ndarray]) -> None:
        with pytest.raises(InputError, match=r"'ia3_two', None: mode 'swappable' runs one adapter a batch"):
            single.run(inputs, adapters=["ia3_two", None, None, None])
        assert single.run(inputs, adapters=["ia3_two"] * 4)["logits"].shape == (4, 2)


class TestAdapters:
    def test_more_than_there_are_slots(self, bank: AdapterSession, inputs: dict[str, np.ndarray]) -> None:
        for name in (*NAMES, NAMES[0]):
            bank.run(inputs, name)
        assert bank.loaded == ("houlsby_two", "pfeiffer_five", "ia3_two")
        found = bank.statistics()
        assert {name: (item.batches, item.rows, item.loads) for name, item in found.items()} == {
            "ia3_two": (2, 8, 2),
            **dict.fromkeys(NAMES[1:], (1, 4, 1)),
        }
        assert [name for name, item in found.items() if item.evictions] == ["ia3_two", "ia3_three", "houlsby_four"]

    def test_a_foreign_file_comes_back_after_it_made_way(
        self, bank: AdapterSession, bank_bundle: Exported, inputs: dict[str, np.ndarray], tmp_path: Path
    ) -> None:
        path = tmp_path / "other.onnx_adapter"
        shutil.copy(bank_bundle.bundle / "adapters" / "houlsby_four.onnx_adapter", path)
        bank.load("mine", path)
        before = bank.run(inputs, "mine")["logits"]
        for name in NAMES:
            bank.run(inputs, name)
        assert "mine" not in bank.loaded
        assert "mine" in bank.adapters
        assert np.array_equal(bank.run(inputs, "mine")["logits"], before)
        bank.unload("mine")
        with pytest.raises(InputError, match="adapter 'mine': expected one of"):
            bank.run(inputs, "mine")

    def test_one_added_later_that_is_wider(
        self, bank_bundle: Exported, single: AdapterSession, inputs: dict[str, np.ndarray], tmp_path: Path
    ) -> None:
        """The graph's own stack holds none of it."""
        small = Path(shutil.copytree(bank_bundle.bundle, tmp_path / "bundle"))
        add_adapter(small, {"late": bank_bundle.adapters["houlsby_two"]})
        assert read_manifest(small).adapter("late").slot is None
        with AdapterSession(small) as session:
            rows = session.run_rows(inputs, ["pfeiffer_five", "late", "houlsby_four", None])
            for row, name in ((1, "houlsby_two"), (2, "houlsby_four")):
                assert_close(rows[row]["logits"], single.run(row_of(inputs, row), name)["logits"][0])

    def test_memory_is_that_of_the_rows_in_use(self, bank: AdapterSession, inputs: dict[str, np.ndarray]) -> None:
        assert bank.adapter_bytes == 0
        bank.run(inputs, "ia3_two")
        one = bank.adapter_bytes
        assert one == 4 * (
            2 * (32 + 32 + read_manifest(bank.bundle).base.inputs["encoder.layer.0.output.dense"]) + 2 * 33
        )
        bank.unload("ia3_two")
        assert bank.adapter_bytes == 0


def test_threads_that_swap_and_run(bank: AdapterSession, single: AdapterSession, inputs: dict[str, np.ndarray]) -> None:
    """Fewer slots than adapters, so that every batch may move others out."""
    one_row = row_of(inputs, 0)
    wanted = {name: single.run(one_row, name)["logits"][0] for name in (*NAMES, None)}
    pair = {name: np.repeat(value, 2, axis=0) for name, value in one_row.items()}
    wrong: list[object] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        choices = [*NAMES, None]
        for _ in range(15):
            names = [choices[i] for i in rng.integers(len(choices), size=2)]
            try:
                if rng.integers(5) == 0:
                    bank.load(NAMES[rng.integers(len(NAMES))])
                for name, row in zip(names, bank.run_rows(pair, names), strict=True):
                    assert_close(row["logits"], wanted[name])
            except Exception as error:
                wrong.append((names, error))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not wrong
    assert not any(thread.is_alive() for thread in threads)


def test_rows_keep_their_adapters_while_they_generate(export_cached: Callable[..., Exported]) -> None:
    prompts, names = [[5, 6, 7], [8, 9], [4, 3, 2, 9], [5, 6, 7]], ["ia3", "houlsby", None, None]
    settings = {"max_new_tokens": 12, "ignore_eos": True}
    with (
        AdapterSession(export_cached("llama").bundle) as one,
        AdapterSession(export_cached("llama", mode="bank").bundle, slots=2) as bank,
    ):
        generation = bank.generate(prompts, adapters=names, **settings)
        next(generation)
        # Both are in use: nothing can take their place, and another version of a name is for those who come later.
        assert set(bank.loaded) == {"ia3", "houlsby"}
        bank.unload("ia3")
        rows = generation.completions()
        for prompt, name, row in zip(prompts, names, rows, strict=True):
            (alone,) = one.generate([prompt], name, **settings).completions()
            assert row == alone
        assert rows[0] != rows[3]
