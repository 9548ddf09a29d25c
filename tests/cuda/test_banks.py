"""Banks on the GPU: their stacks lie there, a slot that is written again is copied there again, and each row is its
own adapter's, against float64 PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from adapter_export.bundle.graphs import MODEL
from adapter_export.bundle.manifest import read_manifest
from adapter_export.providers import Provider
from adapter_export.runtime.session import AdapterSession
from tests.bundles import Exported
from tests.cuda.oracle import FLOAT32, error, first_output, given, in_pytorch

NAMES = ("ia3_two", "ia3_three", "houlsby_four", "houlsby_two", "pfeiffer_five")
SLOTS = 2


@pytest.fixture(scope="module")
def inputs(bank_bundle: Exported, inputs_for: Callable[..., dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {
        name: value for name, value in given(bank_bundle, inputs_for("bert", 4, 9)).items() if name != "adapter_ids"
    }


@pytest.fixture(scope="module")
def expected(bank_bundle: Exported, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Logits of all rows by adapter."""
    return {name: first_output(in_pytorch(bank_bundle, name), inputs) for name in NAMES}


@pytest.fixture
def bank(bank_bundle: Exported, provider: Provider) -> Iterator[AdapterSession]:
    with AdapterSession(bank_bundle.bundle, provider=provider) as opened:
        yield opened


def assert_rows(
    session: AdapterSession,
    inputs: dict[str, np.ndarray],
    names: Sequence[str | None],
    expected: dict[str, np.ndarray],
) -> None:
    for row, (name, outputs) in enumerate(zip(names, session.run_rows(inputs, names), strict=True)):
        if name is None:
            assert outputs["logits"].shape == (0,)
        else:
            assert error(outputs["logits"], expected[name][row]) < FLOAT32, (row, name)


def test_each_row_has_its_own_adapter(
    bank: AdapterSession, inputs: dict[str, np.ndarray], expected: dict[str, np.ndarray]
) -> None:
    for names in (NAMES[:4], NAMES[1:], ("pfeiffer_five", None, "ia3_two", "pfeiffer_five"), ("ia3_two",) * 4):
        assert_rows(bank, inputs, names, expected)


def test_the_stacks_are_on_the_device(bank: AdapterSession, bank_bundle: Exported, provider: Provider) -> None:
    bound = bank.bound(["ia3_two", "houlsby_four", None, "pfeiffer_five"])[MODEL]
    tensors = read_manifest(bank_bundle.bundle).tensors
    places = {name: bound._held[name].device_name() for name in tensors}
    assert set(places.values()) == {str(provider)}, places


def test_slots_that_are_given_to_others_are_copied_again(
    bank_bundle: Exported, inputs: dict[str, np.ndarray], expected: dict[str, np.ndarray], provider: Provider
) -> None:
    """Five adapters take turns in two slots. The wider bottleneck comes after the narrower: the stacks grow."""
    with AdapterSession(bank_bundle.bundle, provider=provider, slots=SLOTS) as session:
        for one, other in zip(NAMES * 2, (*NAMES[1:], *NAMES, NAMES[0]), strict=True):
            assert_rows(session, inputs, (one, other, other, one), expected)
        assert len(session.loaded) == SLOTS


def test_a_run_keeps_its_adapters_while_slots_are_written(
    bank_bundle: Exported, inputs: dict[str, np.ndarray], expected: dict[str, np.ndarray], provider: Provider
) -> None:
    with AdapterSession(bank_bundle.bundle, provider=provider, slots=3) as session:
        graph = session.bound(["houlsby_two"] * 4)[MODEL]
        graph.feed(inputs)
        assert_rows(session, inputs, ("ia3_two", "ia3_three", "ia3_three", "ia3_two"), expected)
        assert_rows(session, inputs, ("houlsby_four", "pfeiffer_five", "houlsby_four", "pfeiffer_five"), expected)
        logits = graph.run(["logits"], host=("logits",))["logits"].numpy()
        wanted = expected["houlsby_two"]
        assert error(logits[:, : wanted.shape[1]], wanted) < FLOAT32


def test_a_bound_bank_is_the_run_of_a_session(bank: AdapterSession, inputs: dict[str, np.ndarray]) -> None:
    names = ["ia3_two", "houlsby_four", "ia3_two", "houlsby_four"]
    graph = bank.bound(names)[MODEL]
    graph.feed(inputs)
    found = graph.run(["logits"], host=("logits",))["logits"].numpy()
    wanted = bank.run(inputs, adapters=names)["logits"]
    found = found[:, : wanted.shape[1]]
    # Columns that a row has no labels for.
    absent = np.isinf(wanted)
    assert np.array_equal(np.isinf(found), absent)
    assert absent.any()
    assert error(found[~absent], wanted[~absent]) < FLOAT32
