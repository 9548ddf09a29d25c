"""What a caller asks of an export, parsed and checked before any file is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapter_export.bundle.manifest import MOST_SLOTS
from adapter_export.bundle.modes import Binding, Mode
from adapter_export.errors import InputError
from adapter_export.export.target import Target
from adapter_export.export.trace import MIN_OPSET
from adapter_export.hub import local
from adapter_export.reading.folders import existing_folder

AUTO = "auto"


@dataclass(frozen=True)
class ExportRequest:
    """The arguments of `export_onnx` that say what the bundle is; see there.

    Attributes:
        folder: Folder of the base model.
        adapters: Folders of the checkpoints, by the names of the adapters.
        mode: How the bundle holds adapters.
        binding: How its graphs take adapter tensors.
        target: What the graphs are made for.
        opset: Version of the ONNX standard.
        slots: In mode bank, how many adapters a session holds in memory at once.
        task: Task of the bundle, or `auto`.
        cache: Whether the graphs of a decoder have a key-value cache.
        labels: Class names by adapter.
        tokenizer: Whether the bundle has a tokenizer.
    """

    folder: Path
    adapters: Mapping[str, Path]
    mode: Mode
    binding: Binding
    target: Target
    opset: int
    slots: int
    task: str
    cache: bool
    labels: Mapping[str, Sequence[str]]
    tokenizer: bool

    @classmethod
    def parse(
        cls,
        model: str | Path,
        adapters: Mapping[str, str | Path],
        *,
        mode: str,
        task: str,
        cache: bool,
        opset: int,
        dtype: str,
        quantize: str,
        fuse: str,
        bind: str,
        slots: int,
        labels: Mapping[str, Sequence[str]],
        tokenizer: bool,
    ) -> ExportRequest:
        """Makes a request from the arguments of `export_onnx`.

        What `org/name` of the Hugging Face hub names is fetched into the hub's own cache.

        Raises:
            InputError: A folder is missing, a word is not known, or no input could meet the request.
        """
        folder = existing_folder(local(model, "model"), "model")
        paths = {name: local(path, "adapter") for name, path in adapters.items()}
        chosen, binding = Mode.parse(mode, "mode"), Binding.parse(bind, "bind")
        _check(chosen, paths, opset, slots, binding)
        target = Target.parse(dtype, quantize, fuse)
        return cls(folder, paths, chosen, binding, target, opset, slots, task, cache, labels, tokenizer)

    @property
    def folders(self) -> list[Path]:
        """All folders that the export reads."""
        return [self.folder, *self.adapters.values()]

    @property
    def task_asked(self) -> bool:
        """Whether the caller names the task. If not, the checkpoints or the base model state it."""
        return self.task != AUTO


def _check(mode: Mode, adapters: Mapping[str, object], opset: int, slots: int, bind: Binding) -> None:
    if not adapters and mode.needs_adapter:
        raise InputError(
            f"mode {mode}: expected at least one --adapter NAME=DIR, found none; {Mode.MERGED} takes the model as it is"
        )
    if mode.in_graph and len(adapters) > 1:
        takers = " and ".join(Mode.that_take_adapters())
        raise InputError(f"mode {mode}: expected exactly one adapter, found {len(adapters)}; {takers} take many")
    if bind.required and mode is not Mode.SWAPPABLE:
        raise InputError(
            f"bind {bind} with mode {mode}: expected mode {Mode.SWAPPABLE}, whose adapters are given at each run"
        )
    if not 1 <= slots <= MOST_SLOTS:
        raise InputError(f"slots {slots}: expected 1 to {MOST_SLOTS}")
    if opset < MIN_OPSET:
        raise InputError(f"opset {opset}: expected at least {MIN_OPSET}")
