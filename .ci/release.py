"""Checks what would be published: `python .ci/release.py [--base] [VERSION ...]`, or `make release-check`.

1. Builds the wheel and the source distribution into dist/, and lets `twine check --strict` read them.
2. For each version of Python: installs each of the two into an empty environment, in an empty folder, where a bundle is
   inspected and run. Then the wheel with all extras exports a small model, which is proven and run. `--base` leaves
   that out: PyTorch takes some GB.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER, DIST = ROOT / ".cache" / "release", ROOT / "dist"
GOLDEN = ROOT / "tests" / "goldens" / "bundles" / "version-1" / "swappable"
VERSIONS = ("3.10", "3.11", "3.12", "3.13")

# A model and an adapter that need nothing but what is installed.
_MADE = """
import torch, peft, transformers
torch.manual_seed(0)
config = transformers.BertConfig(vocab_size=99, hidden_size=32, num_hidden_layers=4, num_attention_heads=4,
                                 intermediate_size=64, num_labels=3)
transformers.BertForSequenceClassification(config).save_pretrained("model")
model = transformers.BertForSequenceClassification.from_pretrained("model")
model = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"]))
for name, parameter in model.named_parameters():
    if "lora_" in name:
        torch.nn.init.normal_(parameter, std=0.1)
model.save_pretrained("adapter")
"""
_RUN = """
import sys
import numpy as np
from adapter_export import AdapterSession
with AdapterSession(sys.argv[1]) as session:
    names = {"input_ids", "attention_mask", "token_type_ids"} & set(session.manifest.graphs["model.onnx"].inputs)
    inputs = {name: np.ones((2, 5), np.int64) for name in names}
    for adapter in (None, *session.adapters):
        assert all(np.isfinite(value).all() for value in session.run(inputs, adapter).values())
assert not {"torch", "transformers"} & set(sys.modules)
"""


def main() -> None:
    """Build, check, install and use."""
    parser = argparse.ArgumentParser(prog="python .ci/release.py")
    parser.add_argument("versions", nargs="*", default=VERSIONS)
    parser.add_argument("--base", action="store_true")
    options = parser.parse_args()
    pythons = {version: shutil.which(f"python{version}") for version in options.versions}
    if absent := [version for version, python in pythons.items() if python is None]:
        sys.exit(f"Python {', '.join(absent)}: not on PATH")
    for folder in (FOLDER, DIST):
        shutil.rmtree(folder, ignore_errors=True)
    tools = _environment(sys.executable, "tools", "build", "twine")
    _run(tools, "-m", "build", "--outdir", str(DIST), str(ROOT))
    built = sorted(DIST.iterdir())
    _run(tools, "-m", "twine", "check", "--strict", *map(str, built))
    for version, python in pythons.items():
        for package in built:
            installed = _environment(str(python), version, str(package))
            _use(installed, GOLDEN)
            print(f"Python {version}, {package.name}: works", flush=True)
        if not options.base:
            (wheel,) = DIST.glob("*.whl")
            _export(_environment(str(python), version, f"{wheel}[all]"))
            print(f"Python {version}, {wheel.name}[all]: works", flush=True)
        shutil.rmtree(FOLDER / version)


def _environment(python: str, name: str, *packages: str) -> str:
    """Makes an empty environment, installs the packages in the tested versions, and returns its Python."""
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    made = str(folder / "bin" / "python")
    _run(made, "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), *packages)
    return made


def _use(python: str, bundle: Path) -> None:
    _run(python, "-m", "adapter_export", "--version")
    _run(python, "-m", "adapter_export", "inspect", str(bundle))
    _run(python, "-c", _RUN, str(bundle))


def _export(python: str) -> None:
    work = FOLDER / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    _run(python, "-c", _MADE)
    bundle = ["--output", "bundle", "--mode", "swappable", "--no-tokenizer"]
    _run(python, "-m", "adapter_export", "onnx", "--model", "model", "--adapter", "task=adapter", *bundle)
    _run(
        python, "-m", "adapter_export", "parity", "--bundle", "bundle", "--model", "model", "--adapter", "task=adapter"
    )
    _use(python, work / "bundle")


def _run(*command: str) -> None:
    """Runs a command outside of the source tree, so that the installed package is used. A failure ends the check."""
    work = FOLDER / "work"
    work.mkdir(parents=True, exist_ok=True)
    subprocess.run(command, check=True, cwd=work)


if __name__ == "__main__":
    main()
