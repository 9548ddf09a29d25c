"""How long runs and swaps take on this GPU. Figures are printed beside a control, the same thing measured again, and
none is asserted: they hold for this machine and this run.

A run of a session ends when its outputs are on the host, so nothing of it is left on the GPU when the clock stops.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from adapter_export.benchmarking.timing import WARM_UP
from adapter_export.providers import Provider
from adapter_export.runtime.session import AdapterSession
from tests import tiny
from tests.bundles import Exported
from tests.cuda import machine
from tests.cuda.oracle import given

# A rehearsal shows that the measuring works, and nothing else.
ROUNDS = 3 if machine.rehearsing() else 50
NEW = 32


def milliseconds(function: Callable[[], Any]) -> float:
    """Of one call that ends when the GPU has: between two CUDA events, without PyTorch's CUDA by the wall clock."""
    if not machine.torch_has_cuda():
        start = time.perf_counter()
        function()
        return 1e3 * (time.perf_counter() - start)
    import torch

    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    before.record()
    function()
    after.record()
    after.synchronize()
    return float(before.elapsed_time(after))


def compared(functions: Mapping[str, Callable[[], Any]]) -> list[str]:
    """A line for each function: its median, and the median of its ratio to the first one in the same round.

    The functions take turns, and who begins changes. `control` must be the first one again.
    """
    names = list(functions)
    assert "control" in names
    for name in names * WARM_UP:
        functions[name]()
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(ROUNDS):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            times[name].append(milliseconds(functions[name]))
    ratios = {name: [one / first for one, first in zip(times[name], times[names[0]], strict=True)] for name in names}
    return [f"{name}: {statistics.median(times[name]):.3f} ms, {statistics.median(ratios[name]):.3f}" for name in names]


@pytest.fixture(scope="module")
def inputs(wide: Callable[[str], Exported], inputs_for: Callable[..., dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return given(wide("swappable"), inputs_for("bert", 8, 64))


@pytest.mark.parametrize("tf32", [False, True])
def test_a_run_with_each_kind_of_adapter(
    wide: Callable[[str], Exported],
    inputs: dict[str, np.ndarray],
    tf32: bool,
    provider: Provider,
    figure: Callable[[str], None],
) -> None:
    if tf32 and not provider.has_tf32:
        pytest.skip("TF32 needs a GPU")
    with AdapterSession(wide("swappable").bundle, provider=provider, tf32=tf32) as session:

        def run(adapter: str | None) -> Callable[[], Any]:
            return lambda: session.run(inputs, adapter)

        names = {"none": None, "control": None, "ia3": "ia3_a", "lora": "lora", "houlsby": "houlsby"}
        for line in compared({name: run(adapter) for name, adapter in names.items()}):
            figure(f"a run of 8 x 64 tokens{', TF32' if tf32 else ''}, adapter {line} of none")


def test_a_swap(
    wide: Callable[[str], Exported],
    inputs: dict[str, np.ndarray],
    provider: Provider,
    figure: Callable[[str], None],
) -> None:
    """Two runs of one adapter, of two in turn, and with the second one read from its file before."""
    with AdapterSession(wide("swappable").bundle, provider=provider) as session:

        def run(*adapters: str, read: bool = False) -> Callable[[], Any]:
            def both() -> None:
                for adapter in adapters:
                    if read and adapter in session.loaded:
                        session.unload(adapter)
                    session.run(inputs, adapter)

            return both

        functions = {
            "the same adapter": run("ia3_a", "ia3_a"),
            "control": run("ia3_a", "ia3_a"),
            "two adapters": run("ia3_a", "ia3_b"),
            "two adapters, both read from their files": run("ia3_a", "ia3_b", read=True),
        }
        for line in compared(functions):
            figure(f"two runs of 8 x 64 tokens, {line} of the same adapter")


def test_a_batch_of_a_bank(
    wide: Callable[[str], Exported],
    inputs: dict[str, np.ndarray],
    provider: Provider,
    figure: Callable[[str], None],
) -> None:
    one, many = ["houlsby"] * 8, ["houlsby", "ia3_a", "lora", None] * 2
    with (
        AdapterSession(wide("swappable").bundle, provider=provider) as single,
        AdapterSession(wide("bank").bundle, provider=provider) as bank,
    ):
        functions = {
            "swappable, one adapter": lambda: single.run(inputs, "houlsby"),
            "control": lambda: single.run(inputs, "houlsby"),
            "bank, one adapter": lambda: bank.run(inputs, adapters=one),
            "bank, three adapters and none": lambda: bank.run(inputs, adapters=many),
        }
        for line in compared(functions):
            figure(f"a run of 8 x 64 tokens, {line} of swappable")


def test_a_token(llama_bundle: Exported, provider: Provider, figure: Callable[[str], None]) -> None:
    rng = np.random.default_rng(0)
    prompts = rng.integers(len(tiny.SPECIAL), tiny.VOCABULARY, (4, 16)).tolist()
    with AdapterSession(llama_bundle.bundle, provider=provider) as session:

        def generate(adapter: str | None) -> Callable[[], Any]:
            return lambda: session.generate(prompts, adapter, max_new_tokens=NEW, ignore_eos=True).completions()

        functions = {"none": generate(None), "control": generate(None), "ia3": generate("ia3")}
        for line in compared(functions):
            figure(f"{NEW} tokens for 4 prompts, tiny Llama with its cache, adapter {line} of none")
