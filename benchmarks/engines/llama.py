"""Makes a model of llama.cpp from a model folder."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tarfile
from pathlib import Path

from samples import environments
from samples.assets import AssetError

# Python bindings, which bring the sources of llama.cpp and compile them for this processor.
LLAMA = environments.Environment(("llama-cpp-python==0.3.36",), "llama_cpp", pinned=False)
_QUANTIZE = """
import sys, llama_cpp
parameters = llama_cpp.llama_model_quantize_default_params()
parameters.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_1
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), parameters))
"""


def compiled() -> Path:
    """Returns the Python of the environment with llama.cpp. Raises AssetError as `quantized_gguf`."""
    if platform.machine() in ("x86_64", "AMD64"):
        # Virtual machines may show these instructions, and not allow them.
        flags = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
        os.environ["CMAKE_ARGS"] = f"'-DCMAKE_C_FLAGS={flags}' '-DCMAKE_CXX_FLAGS={flags}'"
    return environments.python(LLAMA)


def quantized_gguf(model: Path, folder: Path) -> Path:
    """Returns the file of the model in Q4_1: blocks of 32 weights in 4 bits, with a scale and a smallest value.

    Args:
        model: Folder of the model.
        folder: An empty folder that is made for the files.

    Raises:
        AssetError: llama.cpp cannot be fetched or compiled, or does not know the model.
    """
    python = compiled()
    folder.mkdir()
    _run(
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary=llama-cpp-python",
        "-d",
        folder,
        *LLAMA.packages,
    )
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    source = next(folder.glob("*/vendor/llama.cpp"))
    whole, small = folder / "float32.gguf", folder / "q4_1.gguf"
    script = source / "convert_hf_to_gguf.py"
    # It uses PyTorch and transformers of this environment.
    _run(sys.executable, script, model, "--outtype", "f32", "--outfile", whole, path=source / "gguf-py")
    _run(python, "-c", _QUANTIZE, whole, small)
    return small


def _run(*command: str | Path, path: Path | None = None) -> None:
    environment = os.environ if path is None else {**os.environ, "PYTHONPATH": str(path)}
    done = subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise AssetError(f"{Path(command[0]).name} {command[1]}: {done.stderr.strip()[-500:]}")
