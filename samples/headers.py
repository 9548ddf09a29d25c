"""The C headers of ONNX Runtime, which its wheels do not have: from a package of npm that brings them along.

They are those of ONNX Runtime 1.29. A program that asks for an earlier version of the API runs with any later library.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from samples.assets import AssetError, cache

# ONNX Runtime for Unity. Its frameworks for Apple's systems have the headers, which are the same on every system.
PACKAGE = "com.github.asus4.onnxruntime@0.4.9"
_SHA256 = "e59788788818fdde1b2e522e766a21ba0f7d8391de55737abf81e32cc801785d"
_FOLDER = "package/Plugins/iOS~/onnxruntime.xcframework/ios-arm64/onnxruntime.framework/Headers/"


def headers() -> Path:
    """The folder with onnxruntime_c_api.h, fetched on first use (150 MB, of which 1 MB is kept). It appears whole or
    not at all. Raises AssetError."""
    target = cache() / "onnxruntime-headers-1.29"
    if target.is_dir():
        return target
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache(), prefix=".headers-") as scratch:
        made = Path(scratch, "headers")
        made.mkdir()
        with tarfile.open(_packed(Path(scratch))) as archive:
            for member in archive:
                if member.isfile() and member.name.startswith(_FOLDER):
                    content = archive.extractfile(member)
                    assert content is not None, "a file has content"
                    (made / Path(member.name).name).write_bytes(content.read())
        try:
            made.rename(target)
        except OSError:
            # Another process was faster: what it made is the same.
            if not target.is_dir():
                raise
    return target


def _packed(folder: Path) -> Path:
    if (npm := shutil.which("npm")) is None:
        raise AssetError(f"ONNX Runtime's C headers are fetched by npm ({PACKAGE}), which is not installed")
    command = [npm, "pack", "--silent", f"--pack-destination={folder}", PACKAGE]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    found = list(folder.glob("*.tgz"))
    if result.returncode or len(found) != 1:
        raise AssetError(
            f"{PACKAGE} (for ONNX Runtime's C headers) could not be fetched: {result.stderr.strip()[-500:]}"
        )
    digest = hashlib.sha256(found[0].read_bytes()).hexdigest()
    if digest != _SHA256:
        raise AssetError(f"{PACKAGE}: expected sha256 {_SHA256}, found {digest}")
    return found[0]
