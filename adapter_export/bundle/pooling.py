"""How a model's hidden states become the embedding of a text, as the folder of a sentence-transformers model says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapter_export.choices import Choice
from adapter_export.reading.files import present
from adapter_export.reading.json_files import optional_json, read_json_value

_MODULES = "modules.json"
# The last part of a module's type in modules.json. Releases of the library differ in the parts before it.
_TRANSFORMER, _POOLING, _NORMALIZE = "Transformer", "Pooling", "Normalize"
_FLAG = "pooling_mode_"
_NEW_NAMES = {"mean": "mean_tokens", "cls": "cls_token"}


class PoolingKind(Choice):
    """What the embedding is made of. The value is the name in the pooling module's config.json.

    MEAN  the mean over the tokens of the text.
    CLS   the first token.
    """

    MEAN = "mean_tokens"
    CLS = "cls_token"


@dataclass(frozen=True)
class Pooling:
    """How a text's embedding is computed from its hidden states.

    Attributes:
        kind: What it is made of.
        normalize: Whether it is divided by its Euclidean norm.
    """

    kind: PoolingKind
    normalize: bool


def read_pooling(model: Path) -> Pooling | None:
    """Returns the pooling of a model's folder; None if it names none, or one with other steps than these.

    Args:
        model: Folder of the model. In one of sentence-transformers, modules.json lists its steps.

    Raises:
        InputError: A file is not JSON.
    """
    if not present(model / _MODULES):
        return None
    modules = read_json_value(model / _MODULES)
    steps = [module if isinstance(module, dict) else {} for module in modules] if isinstance(modules, list) else []
    kinds = [str(step.get("type", "")).rpartition(".")[2] for step in steps]
    if kinds not in ([_TRANSFORMER, _POOLING], [_TRANSFORMER, _POOLING, _NORMALIZE]):
        return None
    path = steps[1].get("path")
    # A plain name, so that it stays in the folder.
    if not isinstance(path, str) or Path(path).name != path:
        return None
    kind = _kind(optional_json(model / path / "config.json"))
    return None if kind is None else Pooling(kind, len(kinds) == 3)


def _kind(config: dict[str, Any]) -> PoolingKind | None:
    """Returns the kind of pooling; None for several at once and for other kinds."""
    # Newer releases write one name, older ones a flag for each kind.
    if isinstance(mode := config.get("pooling_mode"), str):
        chosen = [_NEW_NAMES.get(mode, mode)]
    else:
        chosen = [key.removeprefix(_FLAG) for key, value in config.items() if key.startswith(_FLAG) and value is True]
    return PoolingKind(chosen[0]) if len(chosen) == 1 and chosen[0] in PoolingKind.words() else None
