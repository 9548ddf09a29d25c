"""Finds the modules that a PEFT checkpoint adapts, by its config and by its tensors. The two must agree."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from adapter_export.architectures.renames import canonical, former
from adapter_export.bounded.child import Exceeded, Failed
from adapter_export.checkpoints.adapter import LM_HEAD, Checkpoint
from adapter_export.checkpoints.peft.config import CONFIG, Patterns, PeftConfig
from adapter_export.checkpoints.peft.matching import is_all_linear, targeted, withheld
from adapter_export.errors import InputError
from adapter_export.modelinfo import ModelInfo
from adapter_export.sites import strip_prefix


def or_default(
    patterns: Patterns | None, default: Patterns | None, name: str, checkpoint: Checkpoint, info: ModelInfo
) -> Patterns:
    """Returns the field `name`, or PEFT's default for the architecture if the config does not set it."""
    if patterns is not None:
        return patterns
    if default is None:
        raise InputError(
            f"{checkpoint.folder / CONFIG}: field {name!r} is missing, and PEFT has no default for {info.model_type!r}"
        )
    return default


def check_targets(
    checkpoint: Checkpoint,
    config: PeftConfig,
    targets: Patterns,
    info: ModelInfo,
    named: Collection[str],
    suffix: str,
    chosen: Callable[[str], bool] | None = None,
) -> None:
    """Checks that the modules with tensors are those that the config names.

    PEFT would drop an additional tensor without a message, and would not adapt a module whose tensor is missing.
    Modules whose output the model does not read may have a tensor or not: it makes no difference.

    Args:
        checkpoint: The checkpoint.
        config: Its config.
        targets: The config's targets, or PEFT's defaults.
        info: Description of the base model.
        named: Modules that have tensors.
        suffix: End of the name of a module's tensor.
        chosen: Whether a target is in one of the layers that the config chooses; None if it chooses none.

    Raises:
        InputError: The modules are not the same.
    """
    expected = set(filter(chosen, _targets(checkpoint, config, targets, info, named)))
    idle = {name for name in expected if path_of(name, info) in info.unread}
    expected -= idle - set(named)
    if surplus := sorted(set(named) - expected):
        raise InputError(
            f"{checkpoint.folder}: tensor {surplus[0] + suffix!r}: 'target_modules' does not name its module "
            f"({len(surplus)} such tensors)"
        )
    if missing := sorted(expected - set(named)):
        raise InputError(
            f"{checkpoint.folder}: tensor {missing[0] + suffix!r} is missing ({len(missing)} in all), but "
            "'target_modules' names its module"
        )


def path_of(name: str, info: ModelInfo) -> str:
    """Returns today's path inside the base model of a module that a checkpoint names."""
    return strip_prefix(canonical(info.model_type, name), info.prefix)


def bounded_match(checkpoint: Checkpoint, name: str, match: Callable[[], set[str]]) -> set[str]:
    """Returns what `match` finds by the expressions of a field. Raises InputError if one is invalid or takes too
    long.
    """
    try:
        return match()
    except (Exceeded, Failed) as error:
        raise InputError(f"{checkpoint.folder / CONFIG}: field {name!r}: a regular expression that {error}") from None


def _targets(
    checkpoint: Checkpoint, config: PeftConfig, targets: Patterns, info: ModelInfo, named: Iterable[str]
) -> set[str]:
    """Returns the names of the modules inside the base model that PEFT would adapt.

    PEFT matches the names of the class that it wrapped, with or without the prefix, in its version of transformers. The
    names of the tensors show which names those are.
    """
    named = list(named)
    # A module with a tensor that is no layer of a known kind is refused later, with what it is.
    others = (path for name in named if (path := path_of(name, info)) in info.modules)
    candidates: Iterable[str] = dict.fromkeys((*info.inputs, *info.embeddings, *others))
    if is_all_linear(targets):
        candidates = [name for name in info.inputs if name not in info.convolutions and name != LM_HEAD]
        targets = r"(?s:.*)"
    if any(name.startswith(f"{info.prefix}.") for name in named):
        candidates = [f"{info.prefix}.{module}" for module in candidates]
    if any(canonical(info.model_type, name) != name for name in named):
        candidates = [former(info.model_type, name) for name in candidates]
    candidates = list(candidates)
    found = bounded_match(checkpoint, "target_modules", lambda: targeted(candidates, targets))
    excluded = bounded_match(checkpoint, "exclude_modules", lambda: targeted(candidates, config.excluded))
    return found - excluded - bounded_match(checkpoint, "modules_to_save", lambda: withheld(candidates, config.saved))
