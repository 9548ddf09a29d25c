"""The sample that the README names does what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from samples import quickstart


@pytest.mark.real
def test_quickstart_answers_with_each_adapters_own_labels(tmp_path: Path) -> None:
    answers = quickstart.main(tmp_path)
    assert answers == {"mood": ["happy", "unhappy"], "topic": ["sport", "food"]}
