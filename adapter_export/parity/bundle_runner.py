"""The bundle in ONNX Runtime, as production runs it, and each adapter's task head without its body."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from adapter_export.bundle.adapter_file import HEAD_SLUG, read_adapter_file, write_adapter_file
from adapter_export.bundle.add import graph_tensors
from adapter_export.bundle.manifest import MANY, NUM_LABELS, Manifest
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.errors import AdapterExportError
from adapter_export.parity.whole_model import WholeModel, whole_model_outputs
from adapter_export.runtime.generation.config import GenerationConfig
from adapter_export.runtime.generation.start import Prompt
from adapter_export.runtime.provider import quiet_options
from adapter_export.runtime.session import AdapterSession

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Written:
    """What a loop wrote: tokens [rows, new], and the logits each was chosen from, [rows, new, vocabulary]."""

    tokens: np.ndarray
    logits: np.ndarray


class BundleRunner:
    """Runs the bundle with an adapter (`on`), with only its task head (`off`), or with nothing at all (`off(None)`).

    Outputs come by name, in the graph's order. What ONNX Runtime raises is passed on.
    """

    def __init__(self, session: AdapterSession, manifest: Manifest, heads: Mapping[str, str]) -> None:
        self._session, self._manifest, self._heads = session, manifest, heads
        self._whole_model = WholeModel(session)
        self._labelled = {name for name, info in whole_model_outputs(manifest).items() if info.shape[-1] == NUM_LABELS}

    @property
    def _in_bank(self) -> bool:
        return self._manifest.mode == "bank"

    @property
    def has_off_state(self) -> bool:
        """Whether the graph can run without an adapter: one that holds it cannot."""
        return self._manifest.in_graph is None

    def on(self, inputs: Mapping[str, np.ndarray], adapter: str) -> dict[str, np.ndarray]:
        return self._run(inputs, adapter)

    def off(self, inputs: Mapping[str, np.ndarray], adapter: str | None) -> dict[str, np.ndarray]:
        return self._run(inputs, self._heads.get(adapter or ""))

    @property
    def generation_config(self) -> GenerationConfig:
        """Of the bundle."""
        return self._session.generation_config

    def generate(self, prompts: Sequence[Prompt], adapter: str | None, new: int) -> Written:
        """`new` tokens behind each prompt, greedily, by the runtime's own loop."""
        batch, adapters, own = self._among_others(prompts, adapter)
        steps = list(self._session.generate(batch, adapters=adapters, max_new_tokens=new, ignore_eos=True))
        return Written(
            np.array([step.tokens[own] for step in steps]).T, np.stack([step.logits[own] for step in steps], axis=1)
        )

    def _run(self, inputs: Mapping[str, np.ndarray], adapter: str | None) -> dict[str, np.ndarray]:
        rows = range(len(next(iter(inputs.values()))))
        places, adapters, own = self._among_others(rows, adapter)
        # All rows are the same adapter's outside a bank, and images beside texts may be more than those.
        batch = {name: value[places] for name, value in inputs.items()} if self._in_bank else dict(inputs)
        outputs = self._whole_model.run(batch, adapters)
        labels = len(self._session.labels(adapter) or ())
        return {
            name: _own(value[own], labels) if name in self._labelled else value[own] for name, value in outputs.items()
        }

    def _among_others(self, rows: Sequence[R], adapter: str | None) -> tuple[list[R], list[str | None], slice]:
        """Rows to run, their adapters, and which of them are the ones asked for.

        In a bank each stands between two of other adapters or none: nobody's numbers may depend on them.
        """
        if not self._in_bank:
            return list(rows), [adapter] * len(rows), slice(None)
        names = [None, *(info.name for info in self._manifest.adapters)]
        first = names.index(adapter) + 1 if adapter in names else 0
        size = 2 * len(rows) + 1
        others = (names[(first + step) % len(names)] for step in range(size))
        adapters = [adapter if place % 2 else next(others) for place in range(size)]
        return [rows[place // 2 % len(rows)] for place in range(size)], adapters, slice(1, None, 2)


def _own(logits: np.ndarray, labels: int) -> np.ndarray:
    """Without what a row of more labels adds to the others: -inf. Anything else stays, for the judge to see."""
    return logits[..., :labels] if np.all(logits[..., labels:] == -np.inf) else logits


@contextmanager
def open_bundle_runner(
    bundle: Path, manifest: Manifest, adapters: Mapping[str, Adapter], provider: str
) -> Iterator[BundleRunner]:
    """A session of the bundle, with one more adapter for each that brings a task head: the head alone.

    The head comes from the checkpoint where that is given, else from the bundle's own file, and goes through the same
    calls as any adapter. Raises ProviderError when the provider is not to be had.
    """
    options = quiet_options()
    # Idle threads of ONNX Runtime would otherwise spin while PyTorch works, on the same cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    heads: dict[str, str] = {}
    names = [info.name for info in manifest.adapters]
    with (
        tempfile.TemporaryDirectory(prefix="adapter-export-", ignore_cleanup_errors=True) as folder,
        AdapterSession(bundle, provider, options=options, verify=False, slots=2 * len(names)) as session,
    ):
        if manifest.mode in MANY and any(site.method == HEAD_SLUG for site in manifest.sites):
            for name in names:
                if tensors := _head_alone(bundle, manifest, name, adapters.get(name)):
                    heads[name] = _unused(f"head-of-{len(heads)}", names)
                    path = Path(folder) / f"{heads[name]}.onnx_adapter"
                    write_adapter_file(path, tensors, manifest.base.sha256)
                    session.load(heads[name], path)
        yield BundleRunner(session, manifest, heads)


def _head_alone(bundle: Path, manifest: Manifest, name: str, adapter: Adapter | None) -> Mapping[str, np.ndarray]:
    """The tensors of an adapter's task head; none where it has none."""
    if adapter is not None:
        own = adapter.num_labels is not None
        return graph_tensors(f"adapter {name}", replace(adapter, blocks={}), manifest) if own else {}
    info = manifest.adapter(name)
    assert info.file is not None
    of_heads = {tensor for site in manifest.sites if site.method == HEAD_SLUG for tensor in site.tensors}
    tensors = read_adapter_file(bundle / info.file, manifest.base.sha256, info.sha256, bundle)
    return {tensor: value for tensor, value in tensors.items() if tensor in of_heads}


def attempt(run: Callable[..., T], *args: Any) -> T | str:
    """What `run` returns, or why it did not: a graph that cannot run a shape fails that case, not the whole check."""
    try:
        return run(*args)
    except AdapterExportError as error:
        return " ".join(str(error).split())


def _unused(name: str, taken: Sequence[str]) -> str:
    while name in taken:
        name += "-"
    return name
