from __future__ import annotations

import hashlib
from pathlib import Path

from adapter_export.reading.hashes import sha256


def test_digest_of_a_file_larger_than_a_chunk(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()
