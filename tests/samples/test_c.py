"""The sample in C, with the library that Python has: every number is that of `AdapterSession`, bit for bit."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from adapter_export.runtime.session import AdapterSession
from samples import c_program
from samples.assets import AssetError
from tests.bundles import Exported

TOKENS = [2, 17, 5, 40, 9, 3]
TEXT = " ".join(map(str, TOKENS))
Line = tuple[str, str, np.ndarray]


def built(folder: Path, *flags: str) -> Path:
    try:
        return c_program.build(folder, flags)
    except AssetError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("c"))


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, which ends with an error where it uses memory wrongly, and at its end if it did not free some."""
    try:
        found = subprocess.run(["cc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs a C compiler: {error}")
    if not Path(found.strip()).is_absolute():
        pytest.skip("the C compiler has no AddressSanitizer")
    return built(tmp_path_factory.mktemp("checked"), "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def run(program: Path, bundle: Path, *adapters: str, tokens: str = TEXT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, bundle, tokens, *adapters], capture_output=True, text=True, check=False)


def lines(done: subprocess.CompletedProcess[str]) -> list[Line]:
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    found = []
    for line in done.stdout.splitlines():
        title, output, shape, numbers = line.split("\t")
        found.append((title, output, np.array(numbers.split(), np.float32).reshape([int(n) for n in shape.split()])))
    return found


@pytest.fixture
def inputs() -> dict[str, np.ndarray]:
    ids = np.array([TOKENS])
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def assert_same(line: Line, title: str, expected: Mapping[str, np.ndarray]) -> None:
    found, output, numbers = line
    assert found == title
    np.testing.assert_array_equal(numbers, expected[output], strict=True)


def test_adapters_switch_and_come_back(
    program: Path, swappable_bundle: Exported, inputs: dict[str, np.ndarray]
) -> None:
    order = ("ia3_two", "houlsby_four", "ia3_two", "pfeiffer_five")
    found = lines(run(program, swappable_bundle.bundle, *order))
    assert [numbers.shape for _, _, numbers in found] == [(1, 2), (1, 4), (1, 2), (1, 5)]
    with AdapterSession(swappable_bundle.bundle) as session:
        for line, name in zip(found, order, strict=True):
            assert_same(line, name, session.run(inputs, name))


def test_none_between_adapters_is_the_base_model(
    program: Path, features_bundle: Exported, inputs: dict[str, np.ndarray]
) -> None:
    order = ("-", "ia3", "-", "pfeiffer")
    found = lines(run(program, features_bundle.bundle, *order))
    with AdapterSession(features_bundle.bundle) as session:
        outputs = len(found) // len(order)
        for number, line in enumerate(found):
            name = order[number // outputs]
            assert_same(line, name, session.run(inputs, None if name == "-" else name))
    assert len({numbers.tobytes() for _, output, numbers in found if output == "last_hidden_state"}) == 3


@pytest.mark.parametrize("mode", ["merged", "embedded"])
def test_an_adapter_in_the_graph(
    program: Path, request: pytest.FixtureRequest, inputs: dict[str, np.ndarray], mode: str
) -> None:
    bundle = request.getfixturevalue(f"{mode}_bundle").bundle
    (line,) = lines(run(program, bundle))
    with AdapterSession(bundle) as session:
        assert_same(line, "-", session.run(inputs))


def test_rows_of_a_bank(program: Path, bank_bundle: Exported, inputs: dict[str, np.ndarray]) -> None:
    ((title, output, found),) = lines(run(program, bank_bundle.bundle, "3", "0", "1"))
    assert (title, output) == ("rows", "logits")
    rows = {name: np.repeat(value, 3, axis=0) for name, value in inputs.items()}
    with AdapterSession(bank_bundle.bundle) as session:
        slots = {adapter.slot: adapter.name for adapter in session.manifest.adapters}
        expected = session.run_rows(rows, [slots[3], None, slots[1]])
    for row, one in zip(found, expected, strict=True):
        # Labels that only other adapters have are -inf.
        labels = one["logits"].size
        np.testing.assert_array_equal(row[:labels], one["logits"])
        assert (row[labels:] == -np.inf).all()


@pytest.mark.parametrize(
    ("fixture", "adapters"),
    [("swappable_bundle", ["ia3_two", "houlsby_four", "ia3_two"]), ("bank_bundle", ["2", "0"])],
)
def test_memory(checked: Path, request: pytest.FixtureRequest, fixture: str, adapters: list[str]) -> None:
    assert lines(run(checked, request.getfixturevalue(fixture).bundle, *adapters))


class TestRefusals:
    @pytest.fixture
    def refused(self, program: Path) -> Callable[..., str]:
        def refused(bundle: Path, *adapters: str, tokens: str = TEXT) -> str:
            done = run(program, bundle, *adapters, tokens=tokens)
            assert done.returncode == 1
            return done.stderr

        return refused

    def test_adapters_that_are_not_there(
        self, refused: Callable[..., str], swappable_bundle: Exported, bank_bundle: Exported
    ) -> None:
        assert "nobody.onnx_adapter" in refused(swappable_bundle.bundle, "nobody")
        assert "expected a whole number, found 'ia3_two'" in refused(bank_bundle.bundle, "ia3_two")
        assert "expected the number of an adapter, found '1 2'" in refused(bank_bundle.bundle, "1 2")
        assert "expected the numbers of adapters" in refused(bank_bundle.bundle)

    def test_tokens(self, refused: Callable[..., str], swappable_bundle: Exported) -> None:
        assert "error: expected a whole number, found 'two'" in refused(swappable_bundle.bundle, tokens="1 two")
        assert "error: expected token ids, found none" in refused(swappable_bundle.bundle, tokens=" ")

    def test_another_binding(self, refused: Callable[..., str], required_bundle: Exported) -> None:
        assert "expected one without a cache, with adapters as overridable initializers" in refused(
            required_bundle.bundle, "ia3_two"
        )
