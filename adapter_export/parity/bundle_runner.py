"""Computes O: runs a bundle in ONNX Runtime as in production, with an adapter, with its task head alone, or without."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from adapter_export.bundle.adapter_file import read_adapter_file, write_adapter_file
from adapter_export.bundle.add import graph_tensors
from adapter_export.bundle.graphs import NUM_LABELS
from adapter_export.bundle.manifest import Manifest
from adapter_export.checkpoints.adapter import Adapter
from adapter_export.errors import AdapterExportError
from adapter_export.parity.whole_model import WholeModel, whole_model_outputs
from adapter_export.runtime.generation.config import GenerationConfig
from adapter_export.runtime.generation.prepare import Prompt
from adapter_export.runtime.provider import quiet_options
from adapter_export.runtime.session import AdapterSession

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Generated:
    """Generated text.

    Attributes:
        tokens: Token ids [rows, new].
        logits: The logits [rows, new, vocabulary] from which the tokens were chosen.
    """

    tokens: np.ndarray
    logits: np.ndarray


class BundleRunner:
    """Runs the bundle with an adapter (`on`), with its task head alone (`off`), or without an adapter (`off(None)`).

    Outputs are returned by name, in the order of the graph. Errors of ONNX Runtime are passed on.

    Attributes:
        session: The session of the bundle.
        whole_model: Runs the graphs as one forward.
    """

    def __init__(self, session: AdapterSession, manifest: Manifest, heads: Mapping[str, str]) -> None:
        """Keeps the session.

        Args:
            session: A session of the bundle.
            manifest: The manifest of the bundle.
            heads: By adapter, the name under which its task head alone is loaded.
        """
        self.session, self._manifest, self._heads = session, manifest, heads
        self.whole_model = WholeModel(session)
        self._labelled = {name for name, info in whole_model_outputs(manifest).items() if info.shape[-1] == NUM_LABELS}

    @property
    def _in_bank(self) -> bool:
        return self._manifest.mode.per_row

    @property
    def has_off_state(self) -> bool:
        """Whether the graph can run without an adapter. A graph that contains its adapter cannot."""
        return self._manifest.in_graph is None

    def on(self, inputs: Mapping[str, np.ndarray], adapter: str) -> dict[str, np.ndarray]:
        """Returns the outputs with an adapter."""
        return self._run(inputs, adapter)

    def off(self, inputs: Mapping[str, np.ndarray], adapter: str | None) -> dict[str, np.ndarray]:
        """Returns the outputs without an adapter's body but with its task head; without both if it is None."""
        return self._run(inputs, self._heads.get(adapter or ""))

    @property
    def generation_config(self) -> GenerationConfig:
        """The generation config of the bundle."""
        return self.session.generation_config

    def generate(self, prompts: Sequence[Prompt], adapter: str | None, new: int) -> Generated:
        """Generates text greedily with the runtime's own loop.

        Args:
            prompts: One per row.
            adapter: Name of the adapter; None for no adapter.
            new: Number of tokens per row. The text does not stop at an end token.
        """
        batch, adapters, own_rows = self._add_bank_rows(prompts, adapter)
        steps = list(self.session.generate(batch, adapters=adapters, max_new_tokens=new, ignore_eos=True))
        return Generated(
            np.array([step.tokens[own_rows] for step in steps]).T,
            np.stack([step.logits[own_rows] for step in steps], axis=1),
        )

    def _run(self, inputs: Mapping[str, np.ndarray], adapter: str | None) -> dict[str, np.ndarray]:
        rows = range(len(next(iter(inputs.values()))))
        row_numbers, adapters, own_rows = self._add_bank_rows(rows, adapter)
        # Only a bank needs rows of other adapters. In other modes the inputs stay as they are, also because there may
        # be more images than texts.
        batch = {name: value[row_numbers] for name, value in inputs.items()} if self._in_bank else dict(inputs)
        outputs = self.whole_model.run(batch, adapters)
        labels = len(self.session.labels(adapter) or ())
        return {
            name: _remove_padding(value[own_rows], labels) if name in self._labelled else value[own_rows]
            for name, value in outputs.items()
        }

    def _add_bank_rows(self, rows: Sequence[R], adapter: str | None) -> tuple[list[R], list[str | None], slice]:
        """Adds rows of other adapters, if the bundle is a bank.

        In a bank every row stands between two rows of other adapters or of none. The outputs of the row must not depend
        on them.

        Returns:
            The rows to run, the adapter of each, and a slice that selects the given rows.
        """
        if not self._in_bank:
            return list(rows), [adapter] * len(rows), slice(None)
        names = [None, *(info.name for info in self._manifest.adapters)]
        first = names.index(adapter) + 1 if adapter in names else 0
        size = 2 * len(rows) + 1
        others = (names[(first + step) % len(names)] for step in range(size))
        adapters = [adapter if index % 2 else next(others) for index in range(size)]
        return [rows[index // 2 % len(rows)] for index in range(size)], adapters, slice(1, None, 2)


def _remove_padding(logits: np.ndarray, labels: int) -> np.ndarray:
    """Removes the logits of -inf that pad a row to the largest number of labels in the batch.

    Other values in their place are kept, so that the shape is judged as wrong.
    """
    return logits[..., :labels] if np.all(logits[..., labels:] == -np.inf) else logits


@contextmanager
def open_bundle_runner(
    bundle: Path,
    manifest: Manifest,
    adapters: Mapping[str, Adapter],
    provider: str,
    session_type: type[AdapterSession] = AdapterSession,
) -> Iterator[BundleRunner]:
    """Opens a session of the bundle. For each adapter with a task head, the head alone is loaded as a further adapter.

    The head is taken from the checkpoint if there is one, else from the bundle's own file. It is loaded by the same
    calls as any adapter.

    Args:
        bundle: Folder of the bundle.
        manifest: Its manifest.
        adapters: The adapters with a checkpoint, by name.
        provider: `cpu` or `cuda`.
        session_type: The class of the session.

    Raises:
        ProviderError: The provider is not available.
    """
    options = quiet_options()
    # Otherwise idle threads of ONNX Runtime would spin on the cores on which PyTorch computes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    heads: dict[str, str] = {}
    names = [info.name for info in manifest.adapters]
    with (
        tempfile.TemporaryDirectory(prefix="adapter-export-", ignore_cleanup_errors=True) as folder,
        session_type(bundle, provider=provider, options=options, verify=False, slots=2 * len(names)) as session,
    ):
        if manifest.heads and not manifest.mode.in_graph:
            for name in names:
                if tensors := _head_alone(bundle, manifest, name, adapters.get(name)):
                    heads[name] = _unused_name(f"head-of-{len(heads)}", names)
                    path = Path(folder) / f"{heads[name]}.onnx_adapter"
                    write_adapter_file(path, tensors, manifest.base.sha256)
                    session.load(heads[name], path)
        yield BundleRunner(session, manifest, heads)


def _head_alone(bundle: Path, manifest: Manifest, name: str, adapter: Adapter | None) -> Mapping[str, np.ndarray]:
    """Returns the tensors of an adapter's task head by name; empty if it has no head of its own."""
    if adapter is not None:
        has_head = adapter.num_labels is not None
        return graph_tensors(f"adapter {name}", replace(adapter, sites={}), manifest) if has_head else {}
    info = manifest.adapter(name)
    assert info.file is not None
    head_tensors = {tensor for site in manifest.heads for tensor in site.tensors}
    tensors = read_adapter_file(bundle / info.file, manifest.base.sha256, info.sha256, bundle)
    return {tensor: value for tensor, value in tensors.items() if tensor in head_tensors}


def attempt(run: Callable[..., T], *args: Any) -> T | str:
    """Calls `run`. A graph that cannot run a shape fails that case, not the complete check.

    Returns:
        What `run` returns, or the message of its error in one line.
    """
    try:
        return run(*args)
    except AdapterExportError as error:
        return " ".join(str(error).split())


def _unused_name(name: str, taken: Sequence[str]) -> str:
    while name in taken:
        name += "-"
    return name
