"""Builds samples/c/run.c with the library of the installed ONNX Runtime.

.venv/bin/python -m samples.c_program FOLDER
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from samples.assets import AssetError
from samples.headers import headers

SOURCE = Path(__file__).parent / "c" / "run.c"
# The name that the library has for those that are linked with it. Wheels have it under the name with all numbers only.
_LIBRARY = "libonnxruntime.so.1"
_FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror")


def build(folder: Path, flags: Sequence[str] = ()) -> Path:
    """Build the program.

    Args:
        folder: An existing folder, for the program and a link to the library.
        flags: More flags for the compiler.

    Returns:
        The program. It runs as long as that ONNX Runtime is installed.

    Raises:
        AssetError: There is no compiler, no library for Linux, or no headers.
        RuntimeError: The compiler has a complaint.
    """
    if (compiler := shutil.which("cc")) is None:
        raise AssetError("samples/c needs a C compiler, cc")
    link = folder / _LIBRARY
    link.unlink(missing_ok=True)
    link.symlink_to(library())
    program = folder / "run"
    include = f"-isystem{headers()}"
    command = [compiler, *_FLAGS, *flags, include, SOURCE, link, f"-Wl,-rpath,{folder.resolve()}", "-o", program]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{SOURCE.name} could not be built:\n{result.stderr.strip()}")
    return program


def library() -> Path:
    """The shared library in the installed package. Raises AssetError where the package has none for Linux."""
    import onnxruntime

    found = sorted(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))
    if not found:
        raise AssetError(f"the package of onnxruntime {onnxruntime.__version__} has no libonnxruntime.so")
    return found[0]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m samples.c_program", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    print(build(folder))
