"""Look for input at which a parser of ours fails, guided by the lines it reaches: `python -m tests.fuzz --seconds 600`.

Each target runs in a process of its own, its share of the time. What is interesting is kept in `.cache/fuzz/TARGET`,
for the next run to start from. An input that fails (another exception than the parser's own, more than --case-seconds,
more than 2 GiB) is written to `out/fuzz`, and the exit code is 1: mend the parser, and put the file into
`tests/fuzz/corpus/TARGET/found-NAME`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
MEMORY = Path("/dev/shm")
KEPT, FAILED = ROOT / ".cache" / "fuzz", ROOT / "out" / "fuzz"


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="for all targets together (default: %(default)s)")
    parser.add_argument("--target", action="append", choices=TARGETS, help="only this one; may be given again")
    parser.add_argument("--case-seconds", type=int, default=5, help="most for one input (default: %(default)s)")
    options = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        parser.exit(2, "atheris is missing: pip install -e '.[fuzz]' (it has wheels for Linux on x86-64 alone)\n")
    names = options.target or list(TARGETS)
    failed = [name for name in names if not started(name, max(2, options.seconds // len(names)), options.case_seconds)]
    print(f"{len(names)} targets, {len(failed)} failed" + "".join(f"\n  {name}: see {FAILED}" for name in failed))
    return 1 if failed else 0


def started(name: str, seconds: int, case_seconds: int) -> bool:
    """Whether nothing was found in that time, in a process of its own: the fuzzer ends the one it runs in."""
    kept = KEPT / name
    kept.mkdir(parents=True, exist_ok=True)
    FAILED.mkdir(parents=True, exist_ok=True)
    log = FAILED / f"{name}.log"
    command = [sys.executable, "-m", "tests.fuzz.one", name, str(seconds), str(case_seconds), str(kept), str(FAILED)]
    # In memory where the system has such a place; the process ends without removing what it wrote.
    with log.open("wb") as output, tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        places = {**os.environ, "TMPDIR": folder}
        code = subprocess.run(command, cwd=ROOT, stdout=output, stderr=output, check=False, env=places).returncode
    lines = log.read_text(errors="replace").splitlines()
    runs = next((line for line in reversed(lines) if line.startswith("Done ")), "")
    print(f"{name:20} {runs if code == 0 else f'FAILED (exit {code}), see {log}'}", flush=True)
    return code == 0


if __name__ == "__main__":
    sys.exit(main())
