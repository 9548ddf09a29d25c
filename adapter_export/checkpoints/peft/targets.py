"""Which modules of a model a PEFT checkpoint adapts, by its config and by its tensors: the two must agree."""

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
    """The field `name`, or PEFT's default for the architecture where the config leaves it open."""
    if patterns is not None:
        return patterns
    if default is None:
        raise InputError(
            f"{checkpoint.folder / CONFIG}: field {name!r} is missing, and PEFT has no default for {info.model_type!r}"
        )
    return default


def check_targets(
    checkpoint: Checkpoint, config: PeftConfig, targets: Patterns, info: ModelInfo, named: Collection[str], suffix: str
) -> None:
    """Raise InputError unless the modules that have tensors, `named`, are those that the config names.

    PEFT would drop a surplus tensor without a word, and adapt nothing where one is missing. targets: the config's, or
    PEFT's defaults. suffix: what the name of a module's tensor ends with. With or without a tensor where no output of
    the model reads: nothing differs.
    """
    expected = _targets(checkpoint, config, targets, info, named)
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
    """Today's path inside the base model of a module that a checkpoint names."""
    return strip_prefix(canonical(info.model_type, name), info.prefix)


def bounded_match(checkpoint: Checkpoint, name: str, match: Callable[[], set[str]]) -> set[str]:
    """What `match` finds by the expressions of a field. Raises InputError where they are none, or run away."""
    try:
        return match()
    except (Exceeded, Failed) as error:
        raise InputError(f"{checkpoint.folder / CONFIG}: field {name!r}: a regular expression that {error}") from None


def _targets(
    checkpoint: Checkpoint, config: PeftConfig, targets: Patterns, info: ModelInfo, named: Iterable[str]
) -> set[str]:
    """Names of the modules inside the base model that PEFT would adapt.

    PEFT matches the names of the class it wrapped, with or without the prefix, in the transformers version it had: the
    names of the tensors tell which.
    """
    named = list(named)
    candidates: Iterable[str] = info.inputs
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
