"""Writes requirements.lock, requirements-cpu.lock and constraints.txt: the versions this project is tested with.

    python .ci/lock.py [--upgrade]

Run it where `uv` is installed (`make lock`). One resolution serves every Python and platform that pyproject.toml names;
versions stay as they are unless pyproject.toml demands others, or with `--upgrade`.

On Linux the index's PyTorch needs some GB of CUDA libraries. Its CPU build (`2.13.0+cpu`) is on no index that pip asks
by itself: requirements-cpu.lock names it, and is for machines whose pip finds it. Where pip finds it now, its hash is
taken from there; elsewhere from the earlier file.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK, CPU, CONSTRAINTS = (ROOT / name for name in ("requirements.lock", "requirements-cpu.lock", "constraints.txt"))
# Extras that `make venv` installs.
EXTRAS = ("all", "test", "dev")
# What the index's PyTorch asks for on Linux besides.
_CUDA = re.compile(r"(cuda|nvidia)-|triton=")
_PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^ ;\\]+)(?P<marker>( ; [^\\]*[^ \\])?)")
_HASH = " \\\n    --hash=sha256:"

_LOCK_HEAD = """\
# Everything `make venv` installs, with the hashes of all its files; written by `make lock`.
#     pip install --require-hashes -r requirements.lock && pip install --no-deps --no-build-isolation -e .
"""
_CPU_HEAD = """\
# requirements.lock with PyTorch's CPU build, where pip finds it, and without CUDA libraries; written by `make lock`.
"""
_CONSTRAINTS_HEAD = """\
# The versions this project is tested with; written by `make lock`, with requirements.lock, which has hashes besides.
# pyproject.toml gives ranges; this installs exactly these:
#     pip install -c constraints.txt '.[all]'
# A package with several versions has one for each range of Pythons.
"""


def main() -> None:
    """Resolve, and write the three files."""
    blocks = _blocks(_resolved(upgrade="--upgrade" in sys.argv[1:]))
    torch = next(block for block in blocks if block.startswith("torch=="))
    cpu, digest = _cpu_build(torch.split(" ")[0])
    rest = [block for block in blocks if block != torch and not _CUDA.match(block)]
    if digest not in torch:
        # Whoever has the CPU build installed or in a folder of their own may use this lock, too.
        blocks[blocks.index(torch)] = torch = torch + _HASH + digest
    LOCK.write_text(_LOCK_HEAD + "\n".join([*blocks, ""]))
    # PyTorch first: where pip does not find it, it is to say so before it downloads the others.
    CPU.write_text(_CPU_HEAD + "\n".join([cpu + _HASH + digest, *rest, ""]))
    CONSTRAINTS.write_text(_CONSTRAINTS_HEAD + "\n".join([*_constraints([*rest, torch]), ""]))


def _resolved(upgrade: bool) -> str:
    """What uv makes of pyproject.toml; it keeps the versions that its output file has."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "all.lock"
        output.write_text(LOCK.read_text())
        command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.10"]
        command += ["--generate-hashes", "--no-header", "--no-annotate", *(f"--extra={name}" for name in EXTRAS)]
        # What this project is built with, since `--no-build-isolation` takes it from the environment.
        build = Path(folder) / "build.in"
        build.write_text("setuptools>=77.0.3\n")
        command += [*["--upgrade"] * upgrade, str(ROOT / "pyproject.toml"), str(build), "--output-file", str(output)]
        subprocess.run(command, check=True)
        return output.read_text()


def _blocks(text: str) -> list[str]:
    """One a version: its line, and the lines of its hashes."""
    return [block.rstrip() for block in re.split(r"\n(?=[A-Za-z0-9])", text)]


def _cpu_build(pin: str) -> tuple[str, str]:
    """`torch==VERSION+cpu` of the version in `pin`, and the sha256 of its file."""
    pin += "+cpu"
    command = ["-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps", "--report", "-", pin]
    done = subprocess.run([sys.executable, *command], check=False, capture_output=True, text=True)
    if done.returncode == 0:
        (chosen,) = json.loads(done.stdout)["install"]
        return pin, chosen["download_info"]["archive_info"]["hashes"]["sha256"]
    known = re.search(re.escape(pin + _HASH) + "([0-9a-f]{64})", CPU.read_text())
    if known is None:
        sys.exit(f"{pin}: pip does not find it here, and {CPU.name} has no hash of it: {done.stderr}")
    return pin, known[1]


def _constraints(blocks: list[str]) -> list[str]:
    """`name==version` of each package; of several versions each has its marker, and that of new Pythons comes first."""
    pins = [match for block in blocks if (match := _PIN.match(block))]
    times = Counter(pin["name"] for pin in pins)
    newest_first = sorted(enumerate(pins), key=lambda item: (str(item[1]["name"]), -item[0]))
    return [
        f"{pin['name']}=={pin['version']}{pin['marker'] if times[pin['name']] > 1 else ''}" for _, pin in newest_first
    ]


if __name__ == "__main__":
    main()
