"""How much memory an export takes: no copies of the weights that could be done without.

Counted is the resident memory at the peak of a process that exports, as `top` shows it: the pages of the mapped model
file included, which the system can drop when memory runs short. What was there before, imports above all, is taken
off.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from adapter_export.checkpoints.folder import save_adapter
from adapter_export.export.trace import trace
from adapter_export.models.base_model import BaseModel
from adapter_export.models.description import describe
from tests import tiny

# A small model goes first, for what is imported on the way. `clear_refs` starts the count of the peak anew. The
# settings are those that take most: a merge changes weights, fusions pack matrices that read the same into new ones,
# and weights in 8 bits stand beside those that they are made of. A copy made anywhere else comes on top.
SCRIPT = """
import sys
from pathlib import Path
from adapter_export.export.export import export_onnx

def memory(field):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) << 10

def export(folder):
    model, adapter, output = folder / "model", folder / "adapter", folder / "bundle"
    export_onnx(model, {"a": adapter}, output, mode="merged", fuse="cpu", quantize="int8")

export(Path(sys.argv[1]))
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
export(Path(sys.argv[2]))
print(memory("VmHWM") - before)
"""


def save(folder: Path, layers: int, **sizes: int) -> int:
    """A random LLaMA with a tied table, and an adapter for it beside it; returns the bytes of its weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    module = LlamaForCausalLM(
        LlamaConfig(num_attention_heads=16, num_hidden_layers=layers, tie_word_embeddings=True, pad_token_id=0, **sizes)
    )
    module.save_pretrained(folder / "model")
    (folder / "adapter").mkdir()
    info = describe(module)
    save_adapter(folder / "adapter", tiny.random_adapter(info, "ia3"), info, "base")
    return sum(parameter.nbytes for parameter in module.parameters())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_export_takes_at_most_twice_the_weights(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    save(small, 1, hidden_size=64, intermediate_size=64, vocab_size=200)
    weights = save(large, 4, hidden_size=1024, intermediate_size=4096, vocab_size=16000)
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(small), str(large)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    taken = int(done.stdout)
    print(f"{taken / weights:.2f} of {weights / 1e6:.0f} MB")
    assert taken <= 2 * weights


def test_no_weights_of_a_trace_outlive_it(tiny_base: Callable[..., BaseModel]) -> None:
    """The optimizer remembers the last graph it saw."""
    traced = trace(tiny_base("vit"), {})
    tensors = [value.const_value for value in traced.model.graph.initializers.values()]
    weights = [weakref.ref(tensor) for tensor in tensors if tensor is not None and tensor.nbytes > 128]
    assert len(weights) > 12
    del traced, tensors
    gc.collect()
    assert not [weight for weight in weights if weight() is not None]
