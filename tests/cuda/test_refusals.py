"""What is refused where there is a GPU, in one line each, and that a session goes on afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from adapter_export.errors import InputError
from adapter_export.providers import Provider
from adapter_export.runtime.session import AdapterSession
from tests.bundles import Exported
from tests.cuda.oracle import FLOAT32, error, given
from tests.tiny import POSITIONS


def test_a_gpu_that_is_hidden(swappable_bundle: Exported) -> None:
    """The session would run on the CPU, without an error of ONNX Runtime's own."""
    command = [sys.executable, "-m", "adapter_export", "run", "--bundle", str(swappable_bundle.bundle)]
    done = subprocess.run(
        [*command, "--adapter", "ia3_two", "--text", "good", "--provider", "cuda"],
        capture_output=True, text=True, check=False, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: provider 'cuda': ")
    assert done.stderr.count("\n") == 1


def test_bfloat16_runs_here_and_is_refused_on_the_cpu(
    classifier_with: Callable[..., Exported], inputs_for: Callable[..., dict[str, np.ndarray]], gpu: Provider
) -> None:
    exported = classifier_with(dtype="bf16")
    with pytest.raises(InputError, match="use provider 'cuda', or export with --dtype fp16 or fp32"):
        AdapterSession(exported.bundle)
    with AdapterSession(exported.bundle, provider=gpu) as session:
        found = session.run(given(exported, inputs_for("bert", 2, 5)), "ia3_three")["logits"]
    assert found.dtype == np.float32
    assert np.isfinite(found).all()


def test_tf32_on_the_cpu(swappable_bundle: Exported) -> None:
    with pytest.raises(InputError, match="tf32: expected provider 'cuda', which has it; found provider 'cpu'"):
        AdapterSession(swappable_bundle.bundle, tf32=True)


def test_a_session_goes_on_after_inputs_that_it_refuses(
    swappable_bundle: Exported, inputs_for: Callable[..., dict[str, np.ndarray]], provider: Provider
) -> None:
    inputs = given(swappable_bundle, inputs_for("bert", 3, 9))
    with AdapterSession(swappable_bundle.bundle, provider=provider) as session:
        before = session.run(inputs, "ia3_two")["logits"]
        # A GPU would read beyond the table of positions, and say nothing.
        long = {name: np.ones((1, POSITIONS + 1), np.int64) for name in inputs}
        with pytest.raises(InputError, match=rf"input 'input_ids': {POSITIONS + 1} tokens do not fit in the"):
            session.run(long, "ia3_two")
        with pytest.raises(InputError, match="attention_mask"):
            session.run({**inputs, "attention_mask": inputs["attention_mask"][:, :-1]}, "ia3_two")
        with pytest.raises(InputError, match="'nobody'"):
            session.run(inputs, "nobody")
        assert error(session.run(inputs, "ia3_two")["logits"], before) < FLOAT32
