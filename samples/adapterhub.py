"""AdapterHub's library `adapters` in an environment of its own, since it needs an older transformers than this project.

What both can share, PyTorch above all, is not installed twice: the environment also sees this one's packages.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from samples.assets import AssetError, cache

# The newest release, and the transformers it was made for.
PACKAGES = ("adapters==1.3.0", "transformers==4.57.6")


def python() -> Path:
    """The Python of that environment, made on first use. Raises AssetError where it cannot be made."""
    folder = cache() / PACKAGES[0].replace("==", "-")
    executable = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = folder / ".installed"
    if done.exists():
        return executable
    venv.create(folder, clear=True, symlinks=os.name != "nt")
    own = Path(_output(executable, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"))
    # Behind its own packages, so that those count where both have one.
    (own / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    _output(Path(sys.executable), "-m", "pip", "--python", str(executable), "install", "--quiet", *PACKAGES)
    _output(executable, "-c", "import adapters")
    done.touch()
    return executable


def _output(*command: Path | str) -> str:
    try:
        result = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", "") or str(error)
        raise AssetError(f"{PACKAGES[0]}: its environment cannot be made: {reason.strip()[-500:]}") from error
    return result.stdout.strip()
