"""Python environments of their own, for libraries that need other versions of packages than this project.

Each is made once, in the cache of `assets`, by pip.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from samples.assets import AssetError, cache

_CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"


@dataclass(frozen=True)
class Environment:
    """packages: as pip takes them; the first gives the folder its name. module: what it is for. shares: whether it also
    sees this project's packages, so that what both can use, PyTorch above all, is not installed twice. complete:
    whether `packages` are all that is installed, and pip does not look for what they need. pinned: whether the rest has
    the versions of this project's constraints.txt, if it shares nothing.
    """

    packages: tuple[str, ...]
    module: str
    shares: bool = False
    complete: bool = False
    pinned: bool = True


# The newest release, and the transformers it was made for.
ADAPTERHUB = Environment(("adapters==1.3.0", "transformers==4.57.6"), "adapters", shares=True)
# It brings plain ONNX Runtime, whose import name is that of the GPU build. Its model builder uses PyTorch.
GENAI = Environment(("onnxruntime-genai==0.18.0", "onnxruntime", "numpy"), "onnxruntime_genai", shares=True)
# By itself pip would install PyTorch for CUDA, several GB.
OPTIMUM = Environment(
    (
        "optimum-onnx==0.1.0",
        "optimum==2.3.0",
        "transformers==4.57.6",
        "huggingface-hub==0.36.2",
        "tokenizers==0.22.2",
        "requests==2.34.2",
        "urllib3",
        "idna",
        "charset-normalizer",
        "certifi",
    ),
    "optimum.exporters.onnx",
    shares=True,
    complete=True,
)
# Its own package names no `requests`, which it imports.
OLIVE = Environment(("olive-ai==0.13.0", "requests==2.34.2"), "olive", shares=True)
# It reads ONNX graphs by itself: neither this project nor ONNX Runtime is needed there.
OPENVINO = Environment(("openvino==2026.4.1", "numpy"), "openvino")

# The base install of this project with what its plugin of pytest needs, without the project itself and without PyTorch.
BASE = Environment(
    (
        "pytest==9.2.0",
        "pytest-xdist",
        "click",
        "huggingface_hub",
        "Jinja2",
        "ml_dtypes",
        "numpy",
        "onnx",
        "onnxruntime",
        "PyYAML",
        "rich",
        "safetensors",
        "tokenizers",
    ),
    "onnxruntime",
)

# Clients of the server.
CLIENTS = Environment(("openai==3.57.0", "tritonclient[http]==2.73.0", "locust==2.47.0"), "openai", pinned=False)

# Some 440 MB of packages, which no other part of the project needs.
RAY = Environment(("ray==2.60.0", "ray[serve,data]==2.60.0"), "ray.serve", shares=True)

# Schemas by which configurations of other servers are checked: Triton's messages, and JSON Schema for Kubernetes.
SCHEMAS = Environment(
    ("jsonschema==4.26.0", "tritonclient[grpc]==2.73.0"), "tritonclient.grpc.model_config_pb2", pinned=False
)


def python(environment: Environment) -> Path:
    """The Python of that environment, made on first use. Raises AssetError where it cannot be made."""
    folder = cache() / environment.packages[0].replace("==", "-")
    executable = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = folder / ".installed"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not done.exists():
            venv.create(folder, clear=True, symlinks=os.name != "nt")
            _install(environment, executable)
            done.touch()
    return executable


def _install(environment: Environment, executable: Path) -> None:
    command = ["-m", "pip", "--python", str(executable), "install", "--quiet", "--retries=1", "--timeout=30"]
    if environment.shares:
        own = Path(_output(environment, executable, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"))
        # Behind its own packages, so that those count where both have one.
        (own / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    elif environment.pinned:
        command.append(f"--constraint={_CONSTRAINTS}")
    if environment.complete:
        command.append("--no-deps")
    _output(environment, Path(sys.executable), *command, *environment.packages)
    _output(environment, executable, "-c", f"import {environment.module}")


def _output(environment: Environment, *command: Path | str) -> str:
    try:
        result = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", "") or str(error)
        what = f"{environment.packages[0]}: its environment cannot be made"
        raise AssetError(f"{what}: {reason.strip()[-500:]}") from error
    return result.stdout.strip()
