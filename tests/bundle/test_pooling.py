"""Pooling as folders of sentence-transformers state it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adapter_export.bundle.pooling import Pooling, PoolingKind, read_pooling

MODELS = "sentence_transformers.models."


def write(folder: Path, steps: list[str], config: dict[str, Any], path: str = "1_Pooling") -> Path:
    modules = [
        {"idx": n, "path": path if step == "Pooling" else "", "type": MODELS + step} for n, step in enumerate(steps)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("steps", "config", "expected"),
    [
        (["Transformer", "Pooling"], {"pooling_mode_mean_tokens": True}, Pooling(PoolingKind.MEAN, False)),
        (["Transformer", "Pooling", "Normalize"], {"pooling_mode_mean_tokens": True}, Pooling(PoolingKind.MEAN, True)),
        (["Transformer", "Pooling"], {"pooling_mode_cls_token": True, "x": False}, Pooling(PoolingKind.CLS, False)),
        (["Transformer", "Pooling"], {"pooling_mode": "mean"}, Pooling(PoolingKind.MEAN, False)),
        (["Transformer", "Pooling"], {"pooling_mode_max_tokens": True}, None),
        (["Transformer", "Pooling"], {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, None),
        (["Transformer", "Pooling"], {}, None),
        (["Transformer", "Pooling", "Dense"], {"pooling_mode_mean_tokens": True}, None),
        (["Transformer"], {}, None),
    ],
)  # fmt: skip
def test_steps(steps: list[str], config: dict[str, Any], expected: Pooling | None, tmp_path: Path) -> None:
    assert read_pooling(write(tmp_path, steps, config)) == expected


def test_another_model(tmp_path: Path) -> None:
    assert read_pooling(tmp_path) is None


@pytest.mark.parametrize("path", ["../other", "/etc", "a/b", ""])
def test_a_path_out_of_the_folder_is_not_followed(path: str, tmp_path: Path) -> None:
    assert read_pooling(write(tmp_path, ["Transformer", "Pooling"], {"pooling_mode": "mean"}, path)) is None
